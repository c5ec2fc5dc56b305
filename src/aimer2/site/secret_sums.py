"""The site's part in sums in secret, over all its studies: whose vault it is, under which terms it takes part, and which sums it will not open."""

from __future__ import annotations

from typing import final

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.core.errors import NotAllowed, NotApproved, NotVerified
from aimer2.core.said import say
from aimer2.core.task import Task
from aimer2.messages.package import Package
from aimer2.site.decisions import Decisions
from aimer2.site.settings import Settings
from aimer2.site.vault import FileVault
from aimer2.study.secure_update import SecureUpdate

FEW = 2
"""Two sums whose sites differ by so many, or fewer, tell of these sites' updates."""


@final
class SecretSums:
    def __init__(self, decisions: Decisions, settings: Settings) -> None:
        self._decisions = decisions
        self._settings = settings
        self._members: dict[str, SecureUpdate] = {}
        self._vault: FileVault | None = None

    def member(self, task: Task, package: Package) -> SecureUpdate | None:
        """The site's half, where the approved study adds in secret. What the coordinator asks for must be in the same terms.

        Raises NotApproved, NotVerified.
        """
        wanted = package.study.privacy.secure_aggregation and task.stage != "preflight"
        if wanted != (task.message != "") or (task.phase != "update" and not wanted):
            raise NotApproved("The coordinator asks for the update under other terms than the study that was approved here.")
        if not wanted:
            return None
        decisions = self._decisions
        if task.phase == "keys" and (unknown := decisions.address_book.unverified(package.roster)):
            raise NotVerified(say("Nobody at this site has verified the keys of {unknown}.", unknown=", ".join(unknown)))
        if task.study not in self._members:
            self._vault = self._vault or FileVault(decisions.folder.vault)
            self._members[task.study] = SecureUpdate.of(package, task.study, decisions.site, decisions.key, self._vault)
        return self._members[task.study]

    def watch(self, task: Task, member: SecureUpdate) -> None:
        """Before it agrees: does this sum differ by few sites from the last? Raises NotAllowed where the hospital will not have that."""
        few = member.changed(task)
        if not 0 < len(few) <= FEW:
            return
        details: dict[str, Json] = {"stage": task.stage, "round": task.round_number, "attempt": task.attempt, "sites": list(few)}
        self._decisions.audit.append(Kind.COHORT_CHANGED, actor="agent", study=task.study, details=details)
        if self._settings.small_differences == "refuse":
            raise NotAllowed(say("The sum differs from the one before by {few} alone, and this site opens no two such sums.", few=", ".join(few)))

    def settle(self) -> None:
        """Erases what the studies' secrets have left."""
        if self._vault is not None:
            self._vault.settle()

    def end_in_order(self) -> None:
        """Nothing is said after this: what is kept of secrets is good also when the machine starts anew."""
        if self._vault is not None:
            self._vault.end_in_order()

    def forget(self, study: str) -> None:
        self._members.pop(study, None)
