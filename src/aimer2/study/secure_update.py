"""A site's part in a sum that nobody can look into: the masks on its update, and what it says in each phase of the protocol.

The mirror of `secure_sum`. The simulator and a hospital's agent run the same lines; the confined worker knows nothing of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

from pydantic import Field

from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.core.errors import BadInput, Conflict, Tampered
from aimer2.core.task import BlobRef, Document, SiteId, Task
from aimer2.core.tree import Tree
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.secure_aggregation.groups import Group, groups
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.marks import MARKS
from aimer2.secure_aggregation.masking import mask
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms, parsed
from aimer2.secure_aggregation.roster import MINIMUM, Roster, threshold
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import Vault
from aimer2.study.quorum import Groups, Patience


class Request(Document):
    """What a task's ``message`` says."""

    epoch: EpochTerms
    content: str = Field(default="", description="what the protocol hands on: the sites' keys, shares, updates or agreements")
    round: RoundTerms | None = Field(default=None, description="of agree and reveal: the round that all sites are to have in common")
    ranges: Mapping[str, Mapping[str, float]] = Field(
        default_factory=dict, description="of an update: the largest magnitude that a value may have, by sum and leaf; not known where it is missing"
    )


class MaskedUpdate(Document):
    """What the ``message`` of a masked update's answer says; the masked sums are the answer's blobs."""

    signed: str = Field(description="the protocol's Update, signed by the site")
    layout: str = Field(description="how to read the masked words: a Layout as JSON")


@final
@dataclass(frozen=True, slots=True)
class Masked:
    """An update as it may leave; its trees are computed as they are read, in order, once."""

    trees: Mapping[str, Tree]
    layout: Layout
    round: RoundTerms


@final
@dataclass(frozen=True, slots=True)
class SecureUpdate:
    """One site in one study.

    **Leaves the site:** what `Member` says, masked words in the place of every sum, the layout (names, shapes and ranges, no values).
    """

    member: Member

    @classmethod
    def of(cls, package: Package, digest: str, site: SiteId, key: SigningKey, vault: Vault) -> SecureUpdate:
        """Raises NotAvailable, NotFound, NotAllowed where the study's roster is none, lacks this site or holds another key for it."""
        rosters = rosters_of(package, digest)
        mine = next((roster for roster in rosters if site in roster.members), rosters[0])
        return cls(Member(mine, site, key, vault))

    def say(self, task: Task) -> str:
        """The answer to a phase without data. Raises as `Member`."""
        request = request_in(task)
        if task.phase == "keys":
            return self.member.advertise(request.epoch)
        if task.phase == "shares":
            return self.member.share(request.epoch, request.content)
        if request.round is None:
            raise BadInput("A round is missing in what the coordinator asks.")
        if task.phase == "agree":
            return self.member.agree(request.epoch, request.round, request.content)
        return self.member.reveal(request.epoch, request.round, request.content)

    def changed(self, task: Task) -> tuple[SiteId, ...]:
        """Of the phase "agree": by which sites the sum that this site is asked to open differs from the one before. Raises as `say`."""
        request = request_in(task)
        return () if request.round is None else self.member.changed(request.epoch, request.round, request.content)

    def has_shares(self, task: Task) -> bool:
        """Whether `begin` takes shares in, which takes a while: opening and checking them all."""
        return request_in(task).content != ""

    def begin(self, task: Task) -> None:
        """Before anything is computed: takes the members' shares in. Raises as `Member` where the site cannot hand in a masked update.

        Raises Conflict where the site is to start from another memory than at first: two sums over one model would differ by its memory.
        """
        request = request_in(task)
        asked = self.member.vault.load(self._asked(task))
        if asked is not None and asked != str(task.counted).encode():
            raise Conflict("This site was asked for this round before, and from another memory.")
        if request.content:
            self.member.accept(request.epoch, request.content)
        self.member.check(request.epoch, task.round_number)

    def mask(self, task: Task, sums: Mapping[str, Tree]) -> Masked:
        """Raises BadUpdate where a value is out of every range, here or when the trees are read."""
        request = request_in(task)
        layout = Layout.of(sums, request.ranges, len(self.member.roster.members))
        inputs = {name: ref.sha256 for name, ref in task.inputs.items()}
        terms = RoundTerms(round_number=task.round_number, inputs=inputs, layout=layout.digest())
        seeds = self.member.prepare(request.epoch, terms)
        return Masked(mask(sums, layout, seeds.context, seeds.own, seeds.plus, seeds.minus), layout, terms)

    def submit(self, task: Task, masked: Masked, uploads: Mapping[str, BlobRef]) -> str:
        """The answer's message; before its first byte leaves. Raises Conflict for a second update under the same masks."""
        digests = {name: ref.sha256 for name, ref in uploads.items()}
        signed = self.member.submit(request_in(task).epoch, masked.round, digests, {self._asked(task): str(task.counted).encode()})
        return MaskedUpdate(signed=signed, layout=json.dumps(masked.layout.document())).model_dump_json()

    def _asked(self, task: Task) -> str:
        return f"{self.member.roster.study}/{MARKS}/asked/{task.stage}-{task.round_number}"


def request_in(task: Task) -> Request:
    """Raises Tampered where it is none, or is about another round than the task that carries it."""
    request = _request(task.message)
    about = (request.epoch.stage, request.epoch.attempt) == (task.stage, task.attempt) and task.round_number in request.epoch
    if not about or (request.round is not None and request.round.round_number != task.round_number):
        raise Tampered("The task and its message are about different rounds.")
    return request


@lru_cache(2)
def _request(message: str) -> Request:
    # Each step of a task reads it again.
    return parsed(message, Request)


def rosters_of(package: Package, digest: str) -> tuple[Roster, ...]:
    """The study's sites with their keys, as every site approved them, by the groups that are added up. Raises NotAvailable for fewer than three
    sites in one."""
    return tuple(Roster.of(digest, {site: package.roster[site] for site in group}) for group in groups_of(package))


def groups_of(package: Package) -> tuple[Group, ...]:
    """Whose updates are added together in secret; one group where the study asks for none."""
    size = package.study.privacy.group_size
    return groups(package.roster, size or max(1, len(package.roster)), package.study.seed)


def quorum_of(package: Package) -> Patience:
    """With these approvals the study can start: as many as it asks for, and as many as its sums in secret are made of."""
    study = package.study
    if not study.privacy.secure_aggregation:
        return Patience(study.sites.minimum, study.sites.deadline_seconds)
    members = groups_of(package)
    least = tuple(max(MINIMUM, threshold(len(group))) for group in members)
    method = study.method
    needed = 1
    if study.privacy.group_size is not None:
        needed = aggregators.make(method.aggregator, study.sites.block, method.aggregator_parameters).sites_needed
    counted = Groups(tuple(map(frozenset, members)), least, needed)
    return Patience(max(study.sites.minimum, counted.sites_needed()), study.sites.deadline_seconds, counted)


def layout_in(message: MaskedUpdate) -> Layout:
    """Raises BadInput where it is none."""
    return _layout(message.layout)


@lru_cache(2)
def _layout(text: str) -> Layout:
    # All sites of a round have the same.
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("This is no layout of a masked upload.") from None
    return Layout.of_document(document)
