"""A site's half of the protocol. It decides nothing by what the coordinator says of itself: roster and threshold come from the study.

Order of calls: advertise, share, accept once per epoch; prepare, submit, agree, reveal per round. What a site has said it says again in the
same bytes when asked again, and it refuses to say anything else in its place. All of that rests on the vault: a site whose vault is lost
sits the epoch out. A vault put back from an older copy is as dangerous as a second site under the same key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import cbor2

from aimer2.core.errors import Conflict, NotAllowed, NotFound, Tampered
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.dealing import Dealer
from aimer2.secure_aggregation.keys import open_bundle, own_seed, pair_seed, public, round_context, set_up_digest, survivor_set
from aimer2.secure_aggregation.marks import MARKS, Sums
from aimer2.secure_aggregation.messages import (
    PROTOCOL,
    Agreement,
    Deals,
    EpochTerms,
    Keys,
    Letters,
    Reveal,
    RoundTerms,
    Update,
    letters_digest,
    opened,
    parsed,
    sign,
)
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.secret_sharing import draw_secret
from aimer2.secure_aggregation.vault import Vault


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """The seeds of a round's masks: of the site's own, of those it adds and of those it subtracts. Never leave the site, never stored."""

    context: bytes
    own: bytes
    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]


@final
@dataclass(frozen=True, slots=True)
class _Round:
    """What a site needs to know of a round: its own two secrets, the others' public keys, the shares it holds for them."""

    context: bytes
    own: bytes
    private: bytes
    publics: Mapping[SiteId, bytes]
    shares: Mapping[SiteId, list[bytes]]


@final
@dataclass(frozen=True, slots=True)
class Member:
    """One site in one study.

    **Leaves the site:** public keys, sealed shares, digests, signatures; in the last phase one share per member, of the secret that opens
    the sum and never of the other one.
    """

    roster: Roster
    site: SiteId
    key: SigningKey
    vault: Vault

    def __post_init__(self) -> None:
        if self.roster.key(self.site) != self.key.public:
            raise NotAllowed("The study's roster holds another key for this site.")

    def advertise(self, epoch: EpochTerms) -> str:
        """Phase "keys": fresh keys for the epoch, one per round and one for shares to be sealed to. It closes the epoch before.

        Raises Conflict for a closed epoch.
        """
        state, _ = self._load(epoch)
        if state is None:
            secrets = {number: [draw_secret(), draw_secret()] for number in _numbers(epoch)}
            seal = draw_secret()
            masks = tuple(public(private) for _, private in secrets.values())
            keys = Keys(study=self.roster.study, roster=self.roster.hash(), epoch=epoch, site=self.site, seal=public(seal), masks=masks)
            text = sign(keys, self.key)
            state = {"protocol": PROTOCOL, "epoch": epoch.model_dump(), "keys": text, "seal": seal, "secrets": secrets}
            self._begin(epoch, state)
        return str(state["keys"])

    def share(self, epoch: EpochTerms, keys: str) -> str:
        """Phase "shares": both secrets of every round, split among the sites whose keys these are and sealed to each.

        Raises Tampered for keys that are not the sites' own, NotAvailable for too few, Conflict for other keys than at first.
        """
        state = self._known(epoch)
        letters = parsed(keys, Letters)
        digest = letters_digest("keys", letters.signed)
        if "list" not in state:
            dealer = Dealer(self.roster, epoch, self.site)
            documents = dealer.check_list(letters, state["keys"])
            dealt = dealer.deal(list(state["secrets"].values()), documents, digest, self.key)
            state |= {"list": digest, "masks": {site: list(document.masks) for site, document in documents.items()}, "bundle": dealt.bundle}
            self.vault.change({self._state(epoch): _dumped(state), self._shares(epoch): dealt.model_dump_json().encode()})
        if state["list"] != digest:
            raise Conflict("This site has dealt its shares for another list of keys.")
        if (said := self.vault.load(self._shares(epoch))) is None:
            raise _sits_out()
        return said.decode()

    def accept(self, epoch: EpochTerms, shares: str) -> tuple[SiteId, ...]:
        """The parcels of all members, before the epoch's first update. Back come the dealers whose parcel is of no use: to be reported.

        An honest dealer among them still counts: the others' shares open its secrets. Raises as `share`.
        """
        state = self._known(epoch)
        if "list" not in state:
            raise Conflict("This site has not dealt its shares for this epoch.")
        deals = parsed(shares, Deals)
        cohort = letters_digest("cohort", deals.bundles)
        if "cohort" not in state:
            rounds, useless = self._taken(epoch, state, deals)
            state = {name: state[name] for name in ("protocol", "epoch", "keys", "list")} | {"cohort": cohort, "useless": useless}
            self.vault.change({self._state(epoch): _dumped(state)} | {self._secrets(epoch, number): _dumped(kept) for number, kept in rounds.items()})
        if state["cohort"] != cohort:
            raise Conflict("This site has accepted the shares of other members for this epoch.")
        return tuple(state["useless"])

    def check(self, epoch: EpochTerms, round_number: int) -> None:
        """Whether the site can mask an update of this round, before one is computed. Raises as `prepare`."""
        self._masking(epoch, round_number)

    def prepare(self, epoch: EpochTerms, terms: RoundTerms) -> Prepared:
        """The seeds for masking this round's update. Raises Conflict for a round that is closed, NotFound for an epoch that is not there."""
        known = self._round(epoch, terms)
        mine = self.roster.index(self.site)
        seeds: dict[bool, list[bytes]] = {True: [], False: []}
        for site, other in known.publics.items():
            index = self.roster.index(site)
            if index != mine:
                seeds[index > mine].append(pair_seed(known.private, other, known.context, mine, index))
        return Prepared(known.context, own_seed(known.own, known.context, mine), tuple(seeds[True]), tuple(seeds[False]))

    def submit(self, epoch: EpochTerms, terms: RoundTerms, uploads: Mapping[str, Digest], keep: Mapping[str, bytes] | None = None) -> str:
        """Phase "update": the site's word that it uploads these masked sums (SHA-256 by name). Before the first byte leaves.

        ``keep``: what else is to be remembered of it, in the same step.

        It erases the secrets and shares of the rounds before: nobody can open one afterwards, not with this site's whole disk either.

        Raises Conflict for a second, different update in the same round: under the same masks their difference would lie open.
        """
        update = Update(**self._header(epoch, terms, self._round(epoch, terms)), uploads=uploads)
        stored = self._said(epoch, terms, Update)
        if stored is None:
            return self._say(update, keep, self._closed(epoch, terms.round_number))
        if opened(stored, Update, self.key.public) != update:
            raise Conflict("This site has handed in another update for this round, or for another model.")
        return stored

    def changed(self, epoch: EpochTerms, terms: RoundTerms, survivors: str) -> tuple[SiteId, ...]:
        """By which sites this set differs from that of the last sum before it that may lie open, of whatever round: the two sums differ by about
        their updates (So et al. 2023, "Securing Secure Aggregation"). Raises Tampered for what is no set."""
        return self._sums(epoch, terms).changed(parsed(survivors, Letters).signed)

    def agree(self, epoch: EpochTerms, terms: RoundTerms, survivors: str) -> str:
        """Phase "agree": the site's signature under the one set of updates that it will open the sum of.

        Raises NotAllowed if its own is not among them, NotAvailable if they are too few, Conflict for a second set, also in a further
        attempt of a round that was opened: two sums over one model, with one site less in the second, are that site's update.
        """
        known = self._round(epoch, terms)
        letters = parsed(survivors, Letters)
        stored = self._said(epoch, terms, Agreement)
        indices, updates = survivor_set(self.roster, letters.signed)
        if stored is not None:
            before = opened(stored, Agreement, self.key.public)
            if (before.survivors, before.updates) != (indices, updates):
                raise Conflict("This site has agreed to another set of updates for this round.")
            return stored
        mine = self._said(epoch, terms, Update)
        if mine is None or letters.signed.get(self.site) != mine:
            raise NotAllowed("This site's update is not in the set that it is asked to agree to.")
        Dealer(self.roster, epoch, self.site).check_count(len(letters.signed))
        self._sums(epoch, terms).check(letters.signed)
        header = self._header(epoch, terms, known)
        for site, text in letters.signed.items():
            if site not in known.publics:
                raise NotAllowed(say("'{site}' is not a member of this epoch.", site=site))
            if site == self.site:
                continue
            update = opened(text, Update, self.roster.key(site))
            if _header_of(update) != header | {"site": site}:
                raise Tampered(say("The update of '{site}' belongs to another round, model or set of sites.", site=site))
        return self._say(Agreement(**header, survivors=indices, updates=updates), self._sums(epoch, terms).signed(letters.signed))

    def reveal(self, epoch: EpochTerms, terms: RoundTerms, agreements: str) -> str:
        """Phase "reveal": one share per member, once at least the threshold of sites has signed the same set as this one.

        Of a survivor, the share of its own mask's secret; of a member without an update, the share of its private key of this round. Raises
        NotAllowed for too few signatures, Tampered for one that is not its site's or under another set.
        """
        known = self._round(epoch, terms)
        stored = self._said(epoch, terms, Agreement)
        if stored is None:
            raise Conflict("This site has not agreed to a set of updates for this round.")
        mine = opened(stored, Agreement, self.key.public)
        survivors = self.roster.sites(mine.survivors)
        letters = parsed(agreements, Letters)
        for site, text in letters.signed.items():
            if site not in survivors:
                raise NotAllowed(say("'{site}' is not among the survivors of this round.", site=site))
            if (site, text) != (self.site, stored) and opened(text, Agreement, self.roster.key(site)) != mine.model_copy(update={"site": site}):
                raise Tampered(say("'{site}' has signed another set of updates.", site=site))
        if len(letters.signed) < self.roster.threshold:
            raise NotAllowed(say("Only {count} sites have agreed; {threshold} must.", count=len(letters.signed), threshold=self.roster.threshold))
        said = self._said(epoch, terms, Reveal)
        if said is not None:
            return said
        sums = self._sums(epoch, terms)
        sums.check(survivors)
        shares = {self.roster.index(site): pair for site, pair in known.shares.items()}
        own = {index: pair[0] for index, pair in shares.items() if index in mine.survivors}
        keys = {index: pair[1] for index, pair in shares.items() if index not in mine.survivors}
        return self._say(Reveal(**self._header(epoch, terms, known), own=own, keys=keys), sums.opened(survivors))

    def close(self, epoch: EpochTerms) -> None:
        """Erases all secrets of the epoch; it can never be begun again."""
        self.vault.change(*_ending(self.roster.study, epoch.name))

    def forget(self) -> None:
        """Erases all secrets of this study; see `forget`."""
        forget(self.vault, self.roster.study)

    def _begin(self, epoch: EpochTerms, state: Mapping[str, Any]) -> None:
        """Of a study one epoch is open at a time: what the one before had left to open, nobody will ask for in good faith."""
        current = _current(self.roster.study)
        former = self.vault.load(current)
        ending, gone = _ending(self.roster.study, former.decode()) if former is not None and former.decode() != epoch.name else ({}, [])
        self.vault.change({**ending, current: epoch.name.encode(), self._state(epoch): _dumped(state)}, gone)

    def _closed(self, epoch: EpochTerms, before: int) -> list[str]:
        """What to erase so that earlier rounds are over; the earliest of them are it already."""
        gone = before
        while gone > epoch.first_round and self.vault.load(self._secrets(epoch, gone - 1)) is not None:
            gone -= 1
        return [f"{self._name(epoch)}/{number}/" for number in range(gone, before)]

    def _taken(self, epoch: EpochTerms, state: Mapping[str, Any], deals: Deals) -> tuple[dict[int, dict[str, Any]], list[SiteId]]:
        """Checks and opens every parcel: what each round needs, and whose parcel is of no use. The key that they were sealed to goes then."""
        if deals.bundles.get(self.site) != state["bundle"]:
            raise Tampered("The members' shares do not hold this site's own.")
        here = Dealer(self.roster, epoch, self.site)
        here.check_count(len(deals.bundles))
        set_up, sites = set_up_digest(self.roster, epoch, state["list"]), sorted(state["masks"])
        bundles = []
        for dealer, text in sorted(deals.bundles.items()):
            if dealer not in state["masks"]:
                raise NotAllowed(say("'{dealer}' has dealt shares without a key in the list.", dealer=dealer))
            bundles.append(open_bundle(text, self.roster, epoch, dealer, state["list"]))
        held = here.take(deals, bundles, sites, state["seal"], set_up)
        rounds = {
            number: {
                "own": own,
                "private": private,
                "publics": {site: state["masks"][site][place] for site in sorted(deals.bundles)},
                "shares": {dealer: taken[2 * place : 2 * place + 2] for dealer, taken in held.items()},
            }
            for place, (number, (own, private)) in enumerate(sorted(state["secrets"].items()))
        }
        return rounds, sorted(deals.bundles.keys() - held.keys())

    def _masking(self, epoch: EpochTerms, round_number: int) -> tuple[Digest, dict[str, Any]]:
        """The members' digest and what is kept of a round, of an epoch whose set-up is done and whose round is still to come."""
        state, (kept,) = self._load(epoch, self._secrets(epoch, round_number))
        if state is None:
            raise _sits_out()
        if "cohort" not in state:
            raise Conflict("This site has not accepted the members' shares for this epoch.")
        if kept is None:
            raise Conflict(say("Round {round_number} is closed at this site, or not of this epoch.", round_number=round_number))
        return state["cohort"], cbor2.loads(kept)

    def _round(self, epoch: EpochTerms, terms: RoundTerms) -> _Round:
        cohort, kept = self._masking(epoch, terms.round_number)
        return _Round(context=round_context(self.roster, epoch, cohort, terms), **kept)

    def _sums(self, epoch: EpochTerms, terms: RoundTerms) -> Sums:
        return Sums(self.vault, self.roster.study, epoch.stage, terms.round_number)

    def _header(self, epoch: EpochTerms, terms: RoundTerms, known: _Round) -> dict[str, Any]:
        return {
            "study": self.roster.study,
            "epoch": epoch,
            "round_number": terms.round_number,
            "context": known.context.hex(),
            "site": self.site,
        }

    def _said(self, epoch: EpochTerms, terms: RoundTerms, form: type[Update] | type[Agreement] | type[Reveal]) -> str | None:
        stored = self.vault.load(f"{self._name(epoch)}/{terms.round_number}/{form.__name__.lower()}")
        return stored.decode() if stored is not None else None

    def _say(self, document: Update | Agreement | Reveal, keep: Mapping[str, bytes] | None = None, erase: Collection[str] = ()) -> str:
        """Signed and kept, in one step with what else is kept and erased. What opens a sum lasts: it holds for keys that are yet to be made."""
        text = sign(document, self.key)
        name = f"{self._name(document.epoch)}/{document.round_number}/{type(document).__name__.lower()}"
        self.vault.change({**(keep or {}), name: text.encode()}, erase, lasting=isinstance(document, Reveal))
        return text

    def _known(self, epoch: EpochTerms) -> dict[str, Any]:
        if (state := self._load(epoch)[0]) is None:
            raise _sits_out()
        return state

    def _load(self, epoch: EpochTerms, *besides: str) -> tuple[dict[str, Any] | None, list[bytes | None]]:
        closed, stored, *found = self.vault.load_all(_mark(self.roster.study, epoch.name), self._state(epoch), *besides)
        if closed is not None:
            raise Conflict("This epoch is closed at this site.")
        if stored is None:
            return None, found
        state: dict[str, Any] = cbor2.loads(stored)
        if state.get("protocol") != PROTOCOL:  # kept by a version whose messages had another form
            raise _sits_out()
        if state["epoch"] != epoch.model_dump():
            raise Conflict("This site knows the epoch with other terms.")
        return state, found

    def _state(self, epoch: EpochTerms) -> str:
        return f"{self._name(epoch)}/state"

    def _shares(self, epoch: EpochTerms) -> str:
        return f"{self._name(epoch)}/shares"

    def _secrets(self, epoch: EpochTerms, round_number: int) -> str:
        return f"{self._name(epoch)}/{round_number}/secrets"

    def _name(self, epoch: EpochTerms) -> str:
        return f"{self.roster.study}/{epoch.name}"


def forget(vault: Vault, study: Digest) -> None:
    """The study is over here: its secrets go. What it has opened, and that its epochs are closed, stays: no secret, and asked again it counts."""
    former = vault.load(_current(study))
    if former is not None:
        vault.change(*_ending(study, former.decode()))


def _sits_out() -> NotFound:
    return NotFound("This site holds no keys for this epoch and sits it out.")


def _current(study: Digest) -> str:
    return f"{study}/current"


def _mark(study: Digest, epoch_name: str) -> str:
    return f"{study}/{MARKS}/closed/{epoch_name}"


def _ending(study: Digest, epoch_name: str) -> tuple[dict[str, bytes], list[str]]:
    """What to keep and what to erase so that an epoch is over."""
    return {_mark(study, epoch_name): b"closed"}, [f"{study}/{epoch_name}/"]


def _dumped(state: Mapping[str, Any]) -> bytes:
    return cbor2.dumps(state, canonical=True)


def _numbers(epoch: EpochTerms) -> range:
    return range(epoch.first_round, epoch.first_round + epoch.rounds)


def _header_of(update: Update) -> dict[str, Any]:
    """All of it but what it is about: as `Member._header`."""
    return {name: value for name, value in update if name != "uploads"}
