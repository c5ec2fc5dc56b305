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
    BACKUP_MADE = "backup-made", "A backup was made."
    BACKUP_RESTORED = "backup-restored", "A backup was restored; what happened after it was made is not in it."
    HEAD_RECEIVED = "head-received", "Another log's signed head was received: what that log held by then cannot be changed unseen."
    LOG_EXPORTED = "log-exported", "A person took a copy of the audit log."

    # An incident
    FROZEN = "frozen", "A named person stopped everything here at once; nothing of any study goes on until it is thawed."
    THAWED = "thawed", "A named person lifted the freeze."
    COORDINATOR_FROZEN = "coordinator-frozen", "The coordinator said that it is frozen; everything of its studies was ended here at once."
    COORDINATOR_THAWED = "coordinator-thawed", "The coordinator said that its freeze was lifted."
    SITE_FROZEN = "site-frozen", "A site said that its hospital has frozen it; it refuses every task."
    SITE_THAWED = "site-thawed", "A site said that its hospital has lifted the freeze."

    # A site
    SITE_CREATED = "site-created", "The site's keys and folders were made on this machine."
    SITE_JOINED = "site-joined", "The site enrolled at a coordinator."
    AGENT_STARTED = "agent-started", "The site's agent was started."
    AGENT_STOPPED = "agent-stopped", "The site's agent was stopped."
    DATASET_ADDED = "dataset-added", "A data set was made known to the site."
    DATASET_CHANGED = "dataset-changed", "A named person changed what the columns of a data set mean; it holds from the next snapshot on."
    DATASET_PUBLISHED = "dataset-published", "A named person let the coordinator see the description of a data set, or took it back."
    SNAPSHOT_MADE = "snapshot-made", "A data set was refreshed from its source into a read-only snapshot."
    SNAPSHOT_REMOVED = "snapshot-removed", "A snapshot was removed."

    # The keys of other sites, at a site
    ROSTER_KEY_VERIFIED = "roster-key-verified", "A named person verified the key of another site, directly or by the statement of a verified one."
    ROSTER_KEY_REMOVED = "roster-key-removed", "A named person took the key of another site out of the address book."
    ROSTER_KEY_REFUSED = "roster-key-refused", "A fingerprint, or a statement about keys of sites, did not hold; nothing was taken from it."
    ROSTER_SIGNED = "roster-signed", "A statement of the keys that were verified here was signed, to be handed to other sites."

    # A study at a site
    STUDY_OFFERED = "study-offered", "A coordinator offered a study; nothing of it has run."
    STUDY_CHECKED = "study-checked", "The study's data contract was checked here, on this hospital's own data, for a person to see; nothing left."
    STUDY_REHEARSED = "study-rehearsed", "The study's update was attacked here, on this hospital's own data, for a person to see; nothing left."
    STUDY_APPROVED = "study-approved", "A named person approved this exact study."
    STUDY_REFUSED = "study-refused", "A named person refused the study."
    STUDY_WITHDRAWN = "study-withdrawn", "The site withdrew from the study; from now on nothing of it runs here."
    TASK_FINISHED = "task-finished", "A task was computed."
    PHASE_ANSWERED = "phase-answered", "A phase of a sum in secret was answered; nothing was computed on patients' data."
    TASK_REFUSED = "task-refused", "A task was refused by the site's rules."
    TASK_FAILED = "task-failed", "A task could not be computed."
    UPDATE_SENT = "update-sent", "A protected update left the site."
    COHORT_CHANGED = (
        "cohort-changed",
        "Two sums in a row differ by one or two sites, and so by about their updates; the site helped to open both, unless its settings refuse.",
    )
    QUESTIONS_TOGETHER = (
        "questions-together",
        "A statistical question, with earlier ones, tells of few patients; it was answered, as the site's settings allow.",
    )
    REPORT_WRITTEN = "report-written", "The site's own report of the study was written; it stays here."

    MODEL_KEPT = "model-kept", "A model of the site's own outlives its study here; it has never left the site."
    MODEL_EXPORTED = "model-exported", "A named person wrote a model of the site's own to a file."
    MODEL_DELETED = "model-deleted", "A named person deleted a model of the site's own."

    # The privacy ledger of a data set at a site
    BUDGET_PROPOSED = "budget-proposed", "A named person wants this privacy budget; it is in force once a second person confirms it."
    BUDGET_SET = "budget-set", "The privacy budget of the data set is this from now on."
    PRIVACY_RESERVED = "privacy-reserved", "Privacy was reserved for a task, before anything was computed; it counts as spent from now on."
    PRIVACY_SPENT = "privacy-spent", "The update that was reserved for has been stored; it may leave the site."
    PRIVACY_RELEASED = "privacy-released", "A reservation was given back, as nothing was computed."
    LEDGER_ANCHORED = "ledger-anchored", "How far a privacy ledger goes: it cannot be cut shorter unseen."

    # A study at the coordinator
    DRAFT_SAVED = "draft-saved", "A researcher saved a study that is still being written; no site sees it."
    DRAFT_DISCARDED = "draft-discarded", "A researcher discarded a draft."
    STUDY_SUBMITTED = "study-submitted", "A researcher submitted a study."
    STUDY_STARTED = "study-started", "The study was started with the sites that approved it."
    STUDY_RESUMED = "study-resumed", "The study went on after its coordinator process had ended."
    STUDY_STOPPED = "study-stopped", "The study was stopped before its end."
    STUDY_FAILED = "study-failed", "The study could not go on."
    STUDY_FINISHED = "study-finished", "The study ended and its record was signed."
    STUDY_ARCHIVED = "study-archived", "A named person took the ended study out of the lists; its records stay."
    STUDY_UNARCHIVED = "study-unarchived", "A named person put the ended study back into the lists."
    STUDY_SUPERSEDED = "study-superseded", "A new version of the study was submitted; nothing of this one runs any more."
    ROUND_CLOSED = "round-closed", "All tasks of a round were closed: which sites took part, and which did not and why."

    MODEL_STAGED = "model-staged", "A named person moved the model of a finished study to another stage, for the reason given."

    # Who may take part and log in
    INVITATION_MADE = "invitation-made", "An invitation to enrol one site was made."
    INVITATION_REVOKED = "invitation-revoked", "An open invitation was taken back."
    SITE_LEFT = "site-left", "A site of this study has left the consortium; the study goes on without it, or waits."
    AGREEMENT_ADDED = "agreement-added", "A document was put before the members of the consortium."
    AGREEMENT_ACCEPTED = "agreement-accepted", "A named person accepted an agreement for a hospital."
    SITE_ENROLLED = "site-enrolled", "A site used its invitation and its public key was recorded."
    SITE_KEY_REPLACED = "site-key-replaced", "A site's public key was replaced, at the word of both keys."
    SITE_REVOKED = "site-revoked", "A site's key was made invalid."
    USER_ADDED = "user-added", "An account was added."
    USER_CHANGED = "user-changed", "An account was given another role."
    USER_LINKED = "user-linked", "A link was made by which a person chooses a new password."
    USER_REMOVED = "user-removed", "An account was closed; its password and its tokens are refused."
    LOGIN_SUCCEEDED = "login-succeeded", "Somebody logged in."
    LOGIN_FAILED = "login-failed", "Somebody failed to log in."
    TOKEN_MADE = "token-made", "A token for a script was made."
    TOKEN_REVOKED = "token-revoked", "A token for a script was revoked."
    PART_GIVEN = "part-given", "A person was given a part in a study."
    PART_TAKEN = "part-taken", "A person's part in a study was taken back."
    LOGGED_OUT = "logged-out", "Somebody's log-ins were ended everywhere."
    PASSWORD_CHANGED = "password-changed", "Somebody set another password; all other log-ins have ended."
    PASSWORD_VOIDED = "password-voided", "A named person made a password void that an older copy of the accounts had brought back."
