"""A study's sites and their coordinator in one process, with real keys and real masks; each phase can lose sites."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.coordinator import Epoch, Opened, Round
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import mask, unmask
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault

STUDY = hashlib.sha256(b"a study").hexdigest()
PHASES = ("keys", "shares", "update", "agree", "reveal")


class Federation:
    """``n`` sites named site-0, site-1, …; site-i's update is [10^i, -10^i, 7]."""

    def __init__(self, n: int, *, rounds: int = 1, attempt: int = 1) -> None:
        self.sites = [f"site-{number}" for number in range(n)]
        self.keys = {site: SigningKey.generate() for site in self.sites}
        self.roster = Roster(STUDY, {site: key.public for site, key in self.keys.items()})
        self.vaults = {site: MemoryVault() for site in self.sites}
        self.members = {site: Member(self.roster, site, self.keys[site], self.vaults[site]) for site in self.sites}
        self.terms = EpochTerms(stage="train", attempt=attempt, first_round=1, rounds=rounds)
        self.updates = {site: {"update": {"w": np.array([10**i, -(10**i), 7])}} for i, site in enumerate(self.sites)}
        self.layout = Layout.of(self.updates["site-0"], {}, n)
        self.uploads: dict[tuple[SiteId, int], dict[str, dict[str, np.ndarray]]] = {}

    def round_terms(self, number: int = 1, model: bytes = b"model") -> RoundTerms:
        return RoundTerms(round_number=number, inputs={"model": hashlib.sha256(model).hexdigest()}, layout=self.layout.digest())

    def keys_message(self, epoch: Epoch, sites: Iterable[SiteId] | None = None) -> dict[SiteId, str]:
        return epoch.collect_keys({site: self.members[site].advertise(self.terms) for site in sites or self.sites})

    def set_up(self, gone: Mapping[str, Collection[SiteId]] | None = None) -> Epoch:
        """The epoch with every member's parcels accepted; ``gone``: who no longer answers in a phase."""
        gone = gone or {}
        epoch = Epoch(self.roster, self.terms)
        messages = self.keys_message(epoch, without(self.sites, gone, "keys"))
        dealt = epoch.collect_shares({site: self.members[site].share(self.terms, messages[site]) for site in without(messages, gone, "shares")})
        for site, message in dealt.items():
            self.members[site].accept(self.terms, message)
        return epoch

    def upload(self, site: SiteId, terms: RoundTerms) -> str:
        """Masks the site's update and gives the site's word for it."""
        seeds = self.members[site].prepare(self.terms, terms)
        masked = read(mask(self.updates[site], self.layout, seeds.context, seeds.own, seeds.plus, seeds.minus))
        self.uploads[site, terms.round_number] = masked
        return self.members[site].submit(self.terms, terms, {name: digest(tree) for name, tree in masked.items()})

    def update_phase(self, epoch: Epoch, sites: Iterable[SiteId] | None = None, number: int = 1) -> tuple[Round, dict[SiteId, str]]:
        terms = self.round_terms(number)
        current = epoch.start(terms)
        answers = {site: self.upload(site, terms) for site in (sites or epoch.members)}
        return current, current.collect_updates(answers, self.digests(answers, number))

    def digests(self, sites: Iterable[SiteId], number: int = 1) -> dict[SiteId, dict[str, str]]:
        """What the coordinator finds among the uploads."""
        return {site: {name: digest(tree) for name, tree in self.uploads[site, number].items()} for site in sites}

    def play(
        self, epoch: Epoch, gone: Mapping[str, Collection[SiteId]] | None = None, number: int = 1, twist: Callable[[Round], Round] = lambda same: same
    ) -> tuple[np.ndarray, set[SiteId]]:
        """A whole round: the sum and whose it is. ``twist`` may exchange the coordinator between any two phases."""
        gone = gone or {}
        terms = self.round_terms(number)
        current, messages = self.update_phase(epoch, without(epoch.members, gone, "update"), number)
        current = twist(current)
        agreed = {site: self.members[site].agree(self.terms, terms, messages[site]) for site in without(messages, gone, "agree")}
        messages = current.collect_agreements(agreed)
        current = twist(current)
        reveals = {site: self.members[site].reveal(self.terms, terms, messages[site]) for site in without(messages, gone, "reveal")}
        return self.sum(current, current.collect_reveals(reveals)), set(current.uploads)

    def sum(self, current: Round, opened: Opened) -> np.ndarray:
        number = current.terms.round_number
        uploads = [self.uploads[site, number] for site in current.uploads]
        return unmask(uploads, self.layout, current.context, opened.own, opened.plus, opened.minus).sums["update"]["w"]

    def plain(self, sites: Iterable[SiteId]) -> np.ndarray:
        return sum((self.updates[site]["update"]["w"] for site in sites), np.zeros(3, np.int64))


def without(sites: Iterable[SiteId], gone: Mapping[str, Collection[SiteId]], phase: str) -> list[SiteId]:
    return [site for site in sites if site not in gone.get(phase, ())]


def read(trees: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
    return {name: {leaf: array.read(0, math.prod(array.shape)).reshape(array.shape) for leaf, array in tree.items()} for name, tree in trees.items()}


def digest(tree: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for _, array in sorted(tree.items()))).hexdigest()
