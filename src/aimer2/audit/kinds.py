"""The kinds of entries of the audit log, each with the sentence that a person reads. A kind that was once written is never renamed."""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class Kind(StrEnum):
    """What an entry of the audit log says: a stable name and one sentence."""

    sentence: str

    def __new__(cls, name: str, sentence: str) -> Kind:
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.sentence = sentence
        return kind

    # The log itself
    KEY_ROTATED = "key-rotated", "The key that signs was replaced; the entries that follow are signed with the key named here."
    TORN_ENTRY = (
        "torn-entry-set-aside",
        "An entry that a crash had cut off was moved to a file of its own; it had not been confirmed to anybody.",
    )
    LOG_VERIFIED = "log-verified", "The audit log was verified."
    LOG_EXPORTED = "log-exported", "A copy of the audit log was handed out."
    BACKUP_MADE = "backup-made", "A backup was made."
    BACKUP_RESTORED = "backup-restored", "A backup was restored; what happened after it was made is not in it."

    # A site
    SITE_CREATED = "site-created", "The site's keys and folders were made on this machine."
    SITE_JOINED = "site-joined", "The site enrolled at a coordinator."
    SITE_LEFT = "site-left", "The site withdrew from a coordinator."
    AGENT_STARTED = "agent-started", "The site's agent was started."
    AGENT_STOPPED = "agent-stopped", "The site's agent was stopped."
    POLICY_CHANGED = "policy-changed", "The rules by which the site takes part were changed."
    DATASET_ADDED = "dataset-added", "A data set was made known to the site."
    DATASET_REMOVED = "dataset-removed", "A data set was removed from the site."
    DATASET_PUBLISHED = "dataset-published", "The description of a data set was approved to be seen by the coordinator."
    SNAPSHOT_MADE = "snapshot-made", "A data set was refreshed from its source into a read-only snapshot."
    SNAPSHOT_REMOVED = "snapshot-removed", "A snapshot was removed."
    OPT_OUT_CHANGED = "opt-out-changed", "The list of patients who do not take part was changed."

    # A study at a site
    STUDY_OFFERED = "study-offered", "A coordinator offered a study; nothing of it has run."
    STUDY_APPROVED = "study-approved", "A named person approved this exact study."
    STUDY_REFUSED = "study-refused", "A named person refused the study."
    STUDY_WITHDRAWN = "study-withdrawn", "The site withdrew from the study; from now on nothing of it runs here."
    APPROVAL_EXPIRED = "approval-expired", "The approval of the study came to its end."
    TASK_RECEIVED = "task-received", "A task of an approved study arrived and its signature was checked."
    TASK_FINISHED = "task-finished", "A task was computed."
    TASK_REFUSED = "task-refused", "A task was refused by the site's rules."
    TASK_FAILED = "task-failed", "A task could not be computed."
    UPDATE_SENT = "update-sent", "A protected update left the site."
    BUDGET_RESERVED = "budget-reserved", "Privacy budget of a data set was set aside for a task."
    BUDGET_SPENT = "budget-spent", "Privacy budget of a data set was spent."
    REPORT_WRITTEN = "report-written", "The site's own report of the study was written; it stays here."
    FIGURES_RELEASED = "figures-released", "The site's own figures were released to the study."
    LOG_RELEASED = "log-released", "A person released a log of a worker to the study."
    MODEL_RECEIVED = "model-received", "A finished model of the study was fetched from the coordinator."

    # A study at the coordinator
    STUDY_SUBMITTED = "study-submitted", "A researcher submitted a study."
    STUDY_STARTED = "study-started", "The study was started with the sites that approved it."
    STUDY_RESUMED = "study-resumed", "The study went on after its coordinator process had ended."
    ROUND_FINISHED = "round-finished", "A round of the study ended and its model was stored."
    STUDY_STOPPED = "study-stopped", "The study was stopped before its end."
    STUDY_FAILED = "study-failed", "The study could not go on."
    STUDY_FINISHED = "study-finished", "The study ended and its record was signed."
    MODEL_RELEASED = "model-released", "A version of a model was released in the repository."
    MODEL_FETCHED = "model-fetched", "Somebody fetched a model."

    # Who may take part and log in
    INVITATION_MADE = "invitation-made", "An invitation to enrol one site was made."
    INVITATION_REVOKED = "invitation-revoked", "An invitation was made invalid before its use."
    SITE_ENROLLED = "site-enrolled", "A site used its invitation and its public key was recorded."
    SITE_REVOKED = "site-revoked", "A site's key was made invalid."
    USER_ADDED = "user-added", "An account was added."
    USER_CHANGED = "user-changed", "An account's roles or password were changed."
    USER_REMOVED = "user-removed", "An account was removed."
    LOGIN_SUCCEEDED = "login-succeeded", "Somebody logged in."
    LOGIN_FAILED = "login-failed", "Somebody failed to log in."
    ACCESS_REFUSED = "access-refused", "Somebody asked for what their role does not allow."
    ANCHOR_RECORDED = "anchor-recorded", "The head of a site's audit log was recorded, so that a tail cut off later is found."
