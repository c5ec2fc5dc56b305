"""The coordinator's half of the protocol: it collects, checks and hands on, and at the end holds what opens the sum and nothing else.

No sockets and no clock: whoever drives it decides when enough have answered. A site whose message is bad is dropped with a reason and the
others go on; with too few left the phase ends in NotAvailable, nothing is learnt, and a further attempt starts with fresh keys. Both
machines turn into plain documents and back, to be saved before each phase's messages go out: above all the set of survivors, which sites
sign once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from aimer2.core.errors import AimerError, BadInput, Conflict, NotAllowed, NotAvailable, Tampered
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.secure_aggregation.keys import open_bundle, open_keys, own_seed, pair_seed, place, public, round_context
from aimer2.secure_aggregation.messages import (
    Agreement,
    Bundle,
    Deals,
    Dealt,
    EpochTerms,
    Keys,
    Letters,
    Reveal,
    RoundTerms,
    Update,
    letters_digest,
    opened,
    parsed,
    secret_commitment,
    share_commitment,
    text_digest,
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
@dataclass(slots=True)
class Epoch:
    """The set-up of an epoch. ``dropped``: which sites are out, and why."""

    roster: Roster
    terms: EpochTerms
    dropped: dict[SiteId, str] = field(default_factory=dict)
    _keys: dict[SiteId, str] = field(default_factory=dict)
    _dealt: dict[SiteId, Dealt] = field(default_factory=dict)
    _bundles: dict[SiteId, Bundle] = field(default_factory=dict)

    def collect_keys(self, answers: Mapping[SiteId, str]) -> dict[SiteId, str]:
        """The answers of the phase "keys" become the one message of the phase "shares". Raises NotAvailable for too few."""
        _once(self._keys)
        seen: set[bytes] = set()
        good = _sifted(answers, lambda site, text: open_keys(text, self.roster, self.terms, site, seen), self.dropped)
        _enough(good, self.roster.least, "sent their keys")
        self._keys = {site: answers[site] for site in good}
        return self.key_messages()

    def collect_shares(self, answers: Mapping[SiteId, str]) -> dict[SiteId, str]:
        """The answers of the phase "shares" become each member's parcels. Who is in now is a member for the whole epoch. Raises as before."""
        _once(self._dealt)
        keys = self._opened_keys()
        good = _sifted(answers, lambda site, text: self._checked(site, text, keys), self.dropped)
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
        return {
            site: Deals(
                dealt={dealer: Dealt(bundle=dealt.bundle, parcels={site: dealt.parcels[site]}) for dealer, dealt in self._dealt.items()}
            ).model_dump_json()
            for site in (self._dealt if members is None else members)
        }

    def start(self, terms: RoundTerms) -> Round:
        """Raises Conflict for a round that is not of this epoch, or before the set-up is done."""
        if terms.round_number not in self.terms or not self._dealt:
            raise Conflict(say("Round {round_number} cannot start in this epoch.", round_number=terms.round_number))
        return Round(self, terms)

    def document(self) -> dict[str, Any]:
        dealt = {site: dealt.model_dump_json() for site, dealt in self._dealt.items()}
        return {"terms": self.terms.model_dump(mode="json"), "dropped": self.dropped, "keys": self._keys, "dealt": dealt}

    @classmethod
    def resume(cls, roster: Roster, document: Mapping[str, Any]) -> Epoch:
        """The epoch as it was. Every signature is checked again: a document from a disk is worth what is signed in it."""
        epoch = cls(roster, EpochTerms.model_validate(document["terms"]), dict(document["dropped"]), dict(document["keys"]))
        keys = epoch._opened_keys()
        epoch._dealt = {site: epoch._checked(site, text, keys) for site, text in document["dealt"].items()}
        return epoch

    def _checked(self, site: SiteId, text: str, keys: Mapping[SiteId, Keys]) -> Dealt:
        if site not in keys:
            raise NotAllowed("The site has no key in the list.")
        dealt = parsed(text, Dealt)
        bundle = open_bundle(dealt.bundle, self.roster, self.terms, site, keys, letters_digest("keys", self._keys))
        if {other: parcel.digest() for other, parcel in dealt.parcels.items()} != dict(bundle.parcels):
            raise Tampered("The parcels are not those that their dealer signed.")
        if any(len(parcel.commitments) != 2 * self.terms.rounds for parcel in dealt.parcels.values()):
            raise Tampered("A parcel does not hold two shares for each round.")
        return dealt

    def _opened_keys(self) -> dict[SiteId, Keys]:
        return {site: opened(text, Keys, self.roster.key(site)) for site, text in self._keys.items()}


@final
@dataclass(slots=True)
class Round:
    """One round of an epoch, from the masked updates to the seeds that open their sum."""

    epoch: Epoch
    terms: RoundTerms
    dropped: dict[SiteId, str] = field(default_factory=dict)
    _updates: dict[SiteId, str] = field(default_factory=dict)
    _agreements: dict[SiteId, str] = field(default_factory=dict)
    context: bytes = field(init=False)

    def __post_init__(self) -> None:
        cohort = letters_digest("cohort", {site: dealt.bundle for site, dealt in self.epoch._dealt.items()})
        self.context = round_context(self.epoch.roster, self.epoch.terms, cohort, self.terms)

    @property
    def uploads(self) -> dict[SiteId, dict[str, Digest]]:
        """What each survivor signed that it uploaded: nothing else goes into the sum."""
        return {site: dict(self._opened(site, text, Update).uploads) for site, text in self._updates.items()}

    def collect_updates(self, answers: Mapping[SiteId, str], uploads: Mapping[SiteId, Mapping[str, Digest]]) -> dict[SiteId, str]:
        """Those whose upload is there as they signed it are the survivors; the message of the phase "agree" goes to them.

        ``uploads``: SHA-256 of each masked sum that came. Raises NotAvailable for too few.
        """
        _once(self._updates)
        good = _sifted(answers, lambda site, text: self._handed_in(site, text, uploads), self.dropped)
        _enough(good, self.epoch.roster.least, "handed in an update for this round")
        self._updates = {site: answers[site] for site in good}
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
        reveals = _sifted(answers, self._revealed, self.dropped)
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
        resumed = cls(epoch, terms, dict(document["dropped"]), dict(document["updates"]))
        for site, text in resumed._updates.items():
            resumed._opened(site, text, Update)
        for site, text in document["agreements"].items():
            resumed._agreed(site, text)
            resumed._agreements[site] = text
        return resumed

    def _handed_in(self, site: SiteId, text: str, uploads: Mapping[SiteId, Mapping[str, Digest]]) -> Update:
        update = self._opened(site, text, Update)
        if dict(update.uploads) != dict(uploads[site]):
            raise Tampered("The site has uploaded something else than it signed.")
        return update

    def _agreed(self, site: SiteId, text: str) -> Agreement:
        agreement = self._opened(site, text, Agreement)
        if site not in self._updates or agreement.survivors != {other: text_digest(update) for other, update in self._updates.items()}:
            raise Tampered("The site has signed another set of updates.")
        return agreement

    def _revealed(self, site: SiteId, text: str) -> Reveal:
        reveal = self._opened(site, text, Reveal)
        if site not in self._agreements or not reveal.own.keys() <= self._updates.keys() or reveal.keys.keys() & self._updates.keys():
            raise Tampered("The site reveals what it was not asked for.")
        return reveal

    def _secret(self, dealer: SiteId, reveals: Mapping[SiteId, Reveal]) -> bytes:
        """Of a survivor the own mask's secret, of another member the private key, from the first shares that are as their dealer signed."""
        survives, bundle = dealer in self._updates, self._bundle(dealer)
        good: dict[int, bytes] = {}
        for site, reveal in reveals.items():
            share = (reveal.own if survives else reveal.keys).get(dealer)
            if share is None:
                continue
            if self._fits(bundle, site, survives, share):
                good[self.epoch.roster.index(site)] = share
            else:
                self.dropped[site] = f"It revealed a share of '{dealer}' that is not the one that it was dealt."
        threshold = self.epoch.roster.threshold
        without = [site for site, reveal in reveals.items() if dealer not in (reveal.own if survives else reveal.keys)]
        if len(good) < threshold <= len(reveals) and without:
            if len(without) > 1:  # one alone may hold its share back
                raise self._cheated(dealer, "The shares that it dealt were of no use to several sites.")
            told = f"Either '{dealer}' dealt '{without[0]}' a share of no use, or '{without[0]}' holds it back"
            raise NotAvailable(say("{told}: nobody else can tell which, and without it the sum cannot be opened.", told=told))
        _enough(good, threshold, f"revealed a good share of '{dealer}'")
        try:
            secret = combine(dict(list(good.items())[:threshold]))
        except BadInput as error:
            raise self._cheated(dealer, "It dealt and signed what is no share.") from error
        announced = bundle.secrets[self._place] if survives else self._mask_key(dealer)
        if (secret_commitment(secret) if survives else public(secret)) != announced:
            raise self._cheated(dealer, "The shares that it dealt and signed open another secret than it announced.")
        return secret

    def _cheated(self, dealer: SiteId, how: str) -> Tampered:
        self.dropped[dealer] = how
        return Tampered(say("'{dealer}' has not kept to the protocol: {how}", dealer=dealer, how=how))

    def _fits(self, bundle: Bundle, recipient: SiteId, survives: bool, share: bytes) -> bool:
        where = place(self.epoch.roster, self.epoch.terms, bundle.keys, bundle.site, recipient)
        index = 2 * self._place + (0 if survives else 1)
        return share_commitment(where, index, share) == self.epoch._dealt[bundle.site].parcels[recipient].commitments[index]

    @property
    def _place(self) -> int:
        return self.terms.round_number - self.epoch.terms.first_round

    def _bundle(self, dealer: SiteId) -> Bundle:
        # Checked again once in a process, not in every round that it serves.
        if dealer not in self.epoch._bundles:
            self.epoch._bundles[dealer] = opened(self.epoch._dealt[dealer].bundle, Bundle, self.epoch.roster.key(dealer))
        return self.epoch._bundles[dealer]

    def _mask_key(self, site: SiteId) -> bytes:
        return opened(self.epoch._keys[site], Keys, self.epoch.roster.key(site)).masks[self._place]

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
