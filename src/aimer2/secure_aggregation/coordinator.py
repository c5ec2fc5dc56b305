"""The coordinator's half of the protocol: it collects, checks and hands on, and at the end holds what opens the sum and nothing else.

No sockets and no clock: whoever drives it decides when enough have answered. A site whose message is bad is dropped with a reason and the
others go on; with too few left the phase ends in NotAvailable, nothing is learnt, and a further attempt starts with fresh keys. Both
machines turn into plain documents and back, to be saved before each phase's messages go out: above all the set of survivors, which sites
sign once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from aimer2.core.errors import AimerError, BadInput, Conflict, NotAllowed, NotAvailable, Tampered, VersionMismatch
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.secure_aggregation.hash_tree import HashTree
from aimer2.secure_aggregation.keys import (
    fitting,
    open_bundle,
    open_keys,
    own_seed,
    pair_seed,
    parcel_length,
    public,
    round_context,
    secret_commitment,
    set_up_digest,
    survivor_set,
)
from aimer2.secure_aggregation.messages import (
    PROTOCOL,
    Agreement,
    Bundle,
    Dealt,
    EpochTerms,
    Keys,
    Letters,
    Reveal,
    RoundTerms,
    Update,
    deals_message,
    letters_digest,
    opened,
    parsed,
    pieces,
)
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.secret_sharing import combine

Checked = TypeVar("Checked")
InRound = TypeVar("InRound", Update, Agreement, Reveal)


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """The seeds of what is still on the sum of the survivors' updates: their own masks; masks towards sites that fell out, added or subtracted."""

    own: tuple[bytes, ...]
    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]


@final
@dataclass(frozen=True, slots=True)
class _Deal:
    """What one site dealt: as it said it, and checked."""

    text: str
    bundle: Bundle
    parcels: Sequence[bytes]
    signed: str
    tree: HashTree


@final
@dataclass(slots=True)
class Epoch:
    """The set-up of an epoch. ``dropped``: which sites are out, and why."""

    roster: Roster
    terms: EpochTerms
    dropped: dict[SiteId, str] = field(default_factory=dict)
    _keys: dict[SiteId, str] = field(default_factory=dict)
    _opened: dict[SiteId, Keys] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _dealt: dict[SiteId, _Deal] = field(default_factory=dict)
    _list: Digest = ""
    _set_up: bytes = b""

    def collect_keys(self, answers: Mapping[SiteId, str]) -> dict[SiteId, str]:
        """The answers of the phase "keys" become the one message of the phase "shares". Raises NotAvailable for too few."""
        _once(self._keys)
        seen: set[bytes] = set()
        good = _sifted(answers, lambda site, text: open_keys(text, self.roster, self.terms, site, seen), self.dropped)
        _enough(good, self.roster.least, "sent their keys")
        self._fix_keys({site: answers[site] for site in good}, good)
        return self.key_messages()

    def collect_shares(self, answers: Mapping[SiteId, str]) -> dict[SiteId, str]:
        """The answers of the phase "shares" become each member's parcels. Who is in now is a member for the whole epoch. Raises as before."""
        _once(self._dealt)
        good = _sifted(answers, self._checked, self.dropped)
        _enough(good, self.roster.least, "dealt their shares")
        self._dealt = good
        return self.share_messages()

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    @property
    def members(self) -> tuple[SiteId, ...]:
        return tuple(self._dealt)

    def key_messages(self) -> dict[SiteId, str]:
        message = Letters(signed=self._keys).model_dump_json()
        return dict.fromkeys(self._keys, message)

    def share_messages(self, members: Collection[SiteId] | None = None) -> dict[SiteId, str]:
        """Each member, or each of these, gets every bundle and, of the parcels, its own."""
        wanted = {site: at for at, site in enumerate(self._opened) if site in self._dealt and (members is None or site in members)}
        dealt = dict(sorted(self._dealt.items())) if wanted else {}
        bundles = json.dumps({dealer: deal.signed for dealer, deal in dealt.items()})
        parcels = zip(*(deal.parcels for deal in dealt.values()), strict=True)
        paths = zip(*(deal.tree.paths() for deal in dealt.values()), strict=True)
        mine = {at: (b"".join(one), b"".join(other)) for at, (one, other) in enumerate(zip(parcels, paths, strict=True))}
        return {site: deals_message(bundles, *mine[at]) for site, at in wanted.items()}

    def start(self, terms: RoundTerms) -> Round:
        """Raises Conflict for a round that is not of this epoch, or before the set-up is done."""
        if terms.round_number not in self.terms or not self._dealt:
            raise Conflict(say("Round {round_number} cannot start in this epoch.", round_number=terms.round_number))
        return Round(self, terms)

    def document(self) -> dict[str, Any]:
        dealt = {site: deal.text for site, deal in self._dealt.items()}
        return {"protocol": PROTOCOL, "terms": self.terms.model_dump(mode="json"), "dropped": self.dropped, "keys": self._keys, "dealt": dealt}

    @classmethod
    def resume(cls, roster: Roster, document: Mapping[str, Any]) -> Epoch:
        """The epoch as it was. Every signature is checked again: a document from a disk is worth what is signed in it.

        Raises VersionMismatch for what a version has kept whose messages had another form.
        """
        if document.get("protocol") != PROTOCOL:
            raise VersionMismatch("What was kept of this epoch is of another version of AIMER2.")
        epoch = cls(roster, EpochTerms.model_validate(document["terms"]), dict(document["dropped"]))
        epoch._fix_keys(document["keys"], {site: opened(text, Keys, roster.key(site)) for site, text in document["keys"].items()})
        epoch._dealt = {site: epoch._checked(site, text) for site, text in document["dealt"].items()}
        return epoch

    def _fix_keys(self, said: Mapping[SiteId, str], keys: Mapping[SiteId, Keys]) -> None:
        self._keys, self._opened = dict(sorted(said.items())), dict(sorted(keys.items()))
        self._places = {self.roster.index(site): at for at, site in enumerate(self._opened)}
        self._list = letters_digest("keys", said)
        self._set_up = set_up_digest(self.roster, self.terms, self._list)

    def _checked(self, site: SiteId, text: str) -> _Deal:
        if site not in self._opened:
            raise NotAllowed("The site has no key in the list.")
        dealt = parsed(text, Dealt)
        bundle = open_bundle(dealt.bundle, self.roster, self.terms, site, self._list)
        parcels = pieces(dealt.parcels, len(self._opened), parcel_length(2 * self.terms.rounds))
        tree = HashTree(parcels)
        if tree.root.hex() != bundle.parcels:
            raise Tampered("The parcels are not those that their dealer signed.")
        return _Deal(text, bundle, parcels, dealt.bundle, tree)


@final
@dataclass(slots=True)
class Round:
    """One round of an epoch, from the masked updates to the seeds that open their sum."""

    epoch: Epoch
    terms: RoundTerms
    dropped: dict[SiteId, str] = field(default_factory=dict)
    _updates: dict[SiteId, str] = field(default_factory=dict)
    _handed_in: dict[SiteId, Update] = field(default_factory=dict)
    _survivors: tuple[tuple[int, ...], Digest] = ((), "")
    _agreements: dict[SiteId, str] = field(default_factory=dict)
    context: bytes = field(init=False)

    def __post_init__(self) -> None:
        cohort = letters_digest("cohort", {site: deal.signed for site, deal in self.epoch._dealt.items()})
        self.context = round_context(self.epoch.roster, self.epoch.terms, cohort, self.terms)

    @property
    def uploads(self) -> dict[SiteId, dict[str, Digest]]:
        """What each survivor signed that it uploaded: nothing else goes into the sum."""
        return {site: dict(update.uploads) for site, update in self._handed_in.items()}

    def collect_updates(self, answers: Mapping[SiteId, str], uploads: Mapping[SiteId, Mapping[str, Digest]]) -> dict[SiteId, str]:
        """Those whose upload is there as they signed it are the survivors; the message of the phase "agree" goes to them.

        ``uploads``: SHA-256 of each masked sum that came. Raises NotAvailable for too few.
        """
        _once(self._updates)
        good = _sifted(answers, lambda site, text: self._uploaded(site, text, uploads), self.dropped)
        _enough(good, self.epoch.roster.least, "handed in an update for this round")
        self._fix({site: answers[site] for site in good}, good)
        return self.survivor_messages()

    def collect_agreements(self, answers: Mapping[SiteId, str]) -> dict[SiteId, str]:
        """The signatures under the set of survivors; the message of the phase "reveal" goes to those who gave one. Raises as before."""
        _once(self._agreements)
        good = _sifted(answers, self._agreed, self.dropped)
        _enough(good, self.epoch.roster.threshold, "agreed to the set of updates")
        self._agreements = {site: answers[site] for site in good}
        return self.agreement_messages()

    def collect_reveals(self, answers: Mapping[SiteId, str]) -> Opened:
        """The seeds, from the shares that fit their commitments.

        Raises NotAvailable where too few shares are good, Tampered where shares, all as their dealer signed them, open nothing that it
        announced: it is in ``dropped`` then, and the next attempt goes without it.
        """
        reveals = {self.epoch.roster.index(site): reveal for site, reveal in _sifted(answers, self._revealed, self.dropped).items()}
        secrets = {site: self._secret(site, reveals) for site in self.epoch.members}
        context, index = self.context, self.epoch.roster.index
        seeds: dict[bool, list[bytes]] = {True: [], False: []}
        lost = [site for site in self.epoch.members if site not in self._updates]
        masks = {site: self._mask_key(site) for site in self._updates} if lost else {}
        for gone in lost:
            for site, mask in masks.items():
                seeds[index(gone) > index(site)].append(pair_seed(secrets[gone], mask, context, index(site), index(gone)))
        own = tuple(own_seed(secrets[site], context, index(site)) for site in self._updates)
        return Opened(own, tuple(seeds[True]), tuple(seeds[False]))

    def survivor_messages(self) -> dict[SiteId, str]:
        return dict.fromkeys(self._updates, Letters(signed=self._updates).model_dump_json())

    def agreement_messages(self) -> dict[SiteId, str]:
        return dict.fromkeys(self._agreements, Letters(signed=self._agreements).model_dump_json())

    def document(self) -> dict[str, Any]:
        terms = self.terms.model_dump(mode="json")
        return {"terms": terms, "dropped": self.dropped, "updates": self._updates, "agreements": self._agreements}

    @classmethod
    def resume(cls, epoch: Epoch, document: Mapping[str, Any]) -> Round:
        """The round as it was; every signature is checked again."""
        terms = RoundTerms.model_validate(document["terms"])
        resumed = cls(epoch, terms, dict(document["dropped"]))
        updates = document["updates"]
        resumed._fix(updates, {site: resumed._opened(site, text, Update) for site, text in updates.items()})
        for site, text in document["agreements"].items():
            resumed._agreed(site, text)
            resumed._agreements[site] = text
        return resumed

    def _fix(self, said: Mapping[SiteId, str], updates: Mapping[SiteId, Update]) -> None:
        self._updates, self._handed_in = dict(said), dict(updates)
        self._survivors = survivor_set(self.epoch.roster, said)

    def _uploaded(self, site: SiteId, text: str, uploads: Mapping[SiteId, Mapping[str, Digest]]) -> Update:
        update = self._opened(site, text, Update)
        if dict(update.uploads) != dict(uploads[site]):
            raise Tampered("The site has uploaded something else than it signed.")
        return update

    def _agreed(self, site: SiteId, text: str) -> Agreement:
        agreement = self._opened(site, text, Agreement)
        if site not in self._updates or (agreement.survivors, agreement.updates) != self._survivors:
            raise Tampered("The site has signed another set of updates.")
        return agreement

    def _revealed(self, site: SiteId, text: str) -> Reveal:
        reveal = self._opened(site, text, Reveal)
        survivors, _ = self._survivors
        if site not in self._agreements or not reveal.own.keys() <= set(survivors) or not reveal.keys.keys().isdisjoint(survivors):
            raise Tampered("The site reveals what it was not asked for.")
        return reveal

    def _secret(self, dealer: SiteId, reveals: Mapping[int, Reveal]) -> bytes:
        """Of a survivor the own mask's secret, of another member the private key, from the first shares that are as their dealer signed."""
        survives, deal, roster = dealer in self._updates, self.epoch._dealt[dealer], self.epoch.roster
        mine = roster.index(dealer)
        said = {index: reveal.own if survives else reveal.keys for index, reveal in reveals.items()}
        told = {index: shares[mine] for index, shares in said.items() if mine in shares}
        parcels = {index: deal.parcels[self.epoch._places[index]] for index in told}
        which, count = 2 * self._place + (0 if survives else 1), 2 * self.epoch.terms.rounds
        good = fitting(told, parcels, (which, count), self.epoch._set_up, mine)
        if len(good) < len(told):
            why = f"It revealed a share of '{dealer}' that is not the one that it was dealt."
            self.dropped.update(dict.fromkeys(roster.sites(told.keys() - good.keys()), why))
        threshold = roster.threshold
        without = roster.sites(said.keys() - told.keys())
        if len(good) < threshold <= len(reveals) and without:
            if len(without) > 1:  # one alone may hold its share back
                raise self._cheated(dealer, "The shares that it dealt were of no use to several sites.")
            message = (
                "Either '{dealer}' dealt '{site}' a share of no use, or '{site}' holds it back: nobody else can tell which, "
                "and without it the sum cannot be opened."
            )
            raise NotAvailable(say(message, dealer=dealer, site=without[0]))
        _enough(good, threshold, f"revealed a good share of '{dealer}'")
        try:
            secret = combine(dict(list(good.items())[:threshold]))
        except BadInput as error:
            raise self._cheated(dealer, "It dealt and signed what is no share.") from error
        announced = deal.bundle.secrets[self._place] if survives else self._mask_key(dealer)
        if (secret_commitment(secret) if survives else public(secret)) != announced:
            raise self._cheated(dealer, "The shares that it dealt and signed open another secret than it announced.")
        return secret

    def _cheated(self, dealer: SiteId, how: str) -> Tampered:
        self.dropped[dealer] = how
        return Tampered(say("'{dealer}' has not kept to the protocol: {how}", dealer=dealer, how=how))

    @property
    def _place(self) -> int:
        return self.terms.round_number - self.epoch.terms.first_round

    def _mask_key(self, site: SiteId) -> bytes:
        return self.epoch._opened[site].masks[self._place]

    def _opened(self, site: SiteId, text: str, form: type[InRound]) -> InRound:
        if site not in self.epoch._dealt:
            raise NotAllowed("The site is not a member of this epoch.")
        document = opened(text, form, self.epoch.roster.key(site))
        said = (document.study, document.epoch, document.round_number, document.context, document.site)
        if said != (self.epoch.roster.study, self.epoch.terms, self.terms.round_number, self.context.hex(), site):
            raise Tampered("It is another site's, or for another round, model, layout or set of sites.")
        return document


def _sifted(answers: Mapping[SiteId, str], check: Callable[[SiteId, str], Checked], dropped: dict[SiteId, str]) -> dict[SiteId, Checked]:
    """What is good of the answers, in the order of the sites; why the others are not goes into ``dropped``."""
    good = {}
    for site, text in sorted(answers.items()):
        try:
            good[site] = check(site, text)
        except AimerError as error:
            dropped[site] = error.sentence
    return good


def _enough(good: Collection[object], needed: int, what: str) -> None:
    if len(good) < needed:
        raise NotAvailable(say("Not enough sites: {count} {what}, {needed} are needed.", count=len(good), what=what, needed=needed))


def _once(collected: Collection[object]) -> None:
    if collected:
        raise Conflict("This phase is over; what it was decided on cannot change.")
