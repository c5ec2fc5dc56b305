"""A coordinator or a site that does not keep to the protocol of secure aggregation.

Each attack must end in a refusal, in a round that is abandoned with nothing learnt, or in the exact sum of the sites that it names. What
"nothing learnt" means is counted in shares: below the threshold of them, a secret is any secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, final

import cbor2
import numpy as np
import pytest
from secure_federation import PHASES, STUDY, Federation, read

from aimer2.core.errors import BadUpdate, Conflict, NotAllowed, NotAvailable, NotFound, Tampered
from aimer2.core.task import SiteId
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.coordinator import Epoch, Round
from aimer2.secure_aggregation.hash_tree import HashTree
from aimer2.secure_aggregation.keys import own_seed, pack, pair_seed, place, public, round_context, set_up_digest, unpack
from aimer2.secure_aggregation.masking import mask, unmask
from aimer2.secure_aggregation.messages import (
    Agreement,
    Bundle,
    Deals,
    Dealt,
    EpochTerms,
    Keys,
    Letters,
    Reveal,
    Update,
    letters_digest,
    opened,
    pieces,
    sign,
    text_digest,
)
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.secret_sharing import combine, draw_secret
from aimer2.secure_aggregation.site import Member, forget
from aimer2.secure_aggregation.vault import MemoryVault


def letters(signed: Mapping[SiteId, str]) -> str:
    return Letters(signed=signed).model_dump_json()


def advertised(federation: Federation) -> dict[SiteId, str]:
    return {site: federation.members[site].advertise(federation.terms) for site in federation.sites}


def agreed(federation: Federation, messages: Mapping[SiteId, str]) -> dict[SiteId, str]:
    return {site: federation.members[site].agree(federation.terms, federation.round_terms(), message) for site, message in messages.items()}


def own_shares(federation: Federation, reveals: Mapping[SiteId, str], victim: SiteId) -> dict[int, bytes]:
    """The shares of the victim's own mask that a coordinator holds."""
    found, index = {}, federation.roster.index(victim)
    for site, text in reveals.items():
        reveal = opened(text, Reveal, federation.keys[site].public)
        if index in reveal.own:
            found[federation.roster.index(site)] = reveal.own[index]
    return found


# The coordinator in the set-up


def test_a_swapped_ephemeral_key_is_refused() -> None:
    federation = Federation(4)
    signed = advertised(federation)
    document = opened(signed["site-1"], Keys, federation.keys["site-1"].public)
    mine = document.model_copy(update={"masks": (public(draw_secret()),), "seal": public(draw_secret())})
    for forged in (sign(mine, SigningKey.generate()), sign(mine, federation.keys["site-3"])):
        with pytest.raises(Tampered):
            federation.members["site-0"].share(federation.terms, letters(signed | {"site-1": forged}))


def test_one_sites_keys_under_anothers_name_are_refused() -> None:
    federation = Federation(4)
    signed = advertised(federation)
    with pytest.raises(Tampered):
        federation.members["site-0"].share(federation.terms, letters(signed | {"site-1": signed["site-2"]}))
    relabelled = opened(signed["site-2"], Keys, federation.keys["site-2"].public).model_copy(update={"site": "site-1"})
    with pytest.raises(Tampered, match="new key"):
        federation.members["site-0"].share(federation.terms, letters(signed | {"site-1": sign(relabelled, federation.keys["site-1"])}))


@pytest.mark.parametrize("point", [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")])
def test_a_point_of_low_order_is_refused(point: bytes) -> None:
    federation = Federation(4)
    signed = advertised(federation)
    document = opened(signed["site-1"], Keys, federation.keys["site-1"].public).model_copy(update={"masks": (point,)})
    weak = sign(document, federation.keys["site-1"])
    with pytest.raises(Tampered, match="low order"):
        federation.members["site-0"].share(federation.terms, letters(signed | {"site-1": weak}))
    epoch = Epoch(federation.roster, federation.terms)
    assert "site-1" not in epoch.collect_keys(signed | {"site-1": weak})


def test_a_site_that_is_not_in_the_roster_is_refused() -> None:
    federation = Federation(4)
    key = SigningKey.generate()
    invented = Roster(federation.roster.study, dict(federation.roster.members) | {"site-9": key.public})
    stranger = Member(invented, "site-9", key, MemoryVault()).advertise(federation.terms)
    with pytest.raises(NotFound, match="roster"):
        federation.members["site-0"].share(federation.terms, letters(advertised(federation) | {"site-9": stranger}))


def test_sites_with_different_rosters_do_not_work_together() -> None:
    federation, key = Federation(4), SigningKey.generate()
    larger = Roster(federation.roster.study, dict(federation.roster.members) | {"site-9": key.public})
    signed = advertised(federation)
    signed["site-1"] = Member(larger, "site-1", federation.keys["site-1"], MemoryVault()).advertise(federation.terms)
    with pytest.raises(Tampered, match="roster"):
        federation.members["site-0"].share(federation.terms, letters(signed))


def test_two_lists_of_keys_are_noticed_before_anything_is_masked() -> None:
    federation = Federation(4)
    signed = advertised(federation)
    lists = {site: signed if site < "site-2" else {name: signed[name] for name in federation.sites[1:]} for site in federation.sites[1:]}
    bundles = {site: Dealt.model_validate_json(federation.members[site].share(federation.terms, letters(lists[site]))).bundle for site in lists}
    with pytest.raises(Tampered, match="other keys"):
        federation.members["site-1"].accept(federation.terms, Deals(bundles=bundles, parcels=b"", paths=b"").model_dump_json())
    with pytest.raises(Conflict):
        federation.members["site-1"].share(federation.terms, letters({name: signed[name] for name in federation.sites[1:]}))


def test_a_parcel_opens_for_its_recipient_from_its_dealer_in_its_set_up_alone() -> None:
    federation = Federation(3)
    private, other = draw_secret(), EpochTerms(stage="train", attempt=2, first_round=1, rounds=1)
    made = (federation.roster, federation.terms, "0" * 64)
    here = place(set_up_digest(*made), 1, 2)
    shares = [draw_secret(), draw_secret()]
    parcel = pack(shares, public(private), here)
    assert unpack(parcel, private, here, 2) == shares
    larger = Roster(STUDY, dict(federation.roster.members) | {"site-9": SigningKey.generate().public})
    places = [place(set_up_digest(*changed), 1, 2) for changed in ((larger, *made[1:]), (made[0], other, made[2]), (*made[:2], "1" * 64))]
    for changed in (*places, place(set_up_digest(*made), 3, 2), place(set_up_digest(*made), 1, 3)):
        with pytest.raises(Tampered):
            unpack(parcel, private, changed, 2)


def test_members_left_out_for_one_site_are_noticed_and_its_masks_do_not_cancel() -> None:
    """The coordinator hands site-0 one dealer less: it would hide among fewer than it believes."""
    federation = Federation(5)
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch)
    dealt = epoch.collect_shares({site: federation.members[site].share(federation.terms, text) for site, text in messages.items()})
    deals = Deals.model_validate_json(dealt["site-0"])
    bundles = {site: bundle for site, bundle in deals.bundles.items() if site != "site-4"}
    fewer = Deals(bundles=bundles, parcels=deals.parcels[: len(deals.parcels) * 4 // 5], paths=deals.paths[: len(deals.paths) * 4 // 5])
    federation.members["site-0"].accept(federation.terms, fewer.model_dump_json())
    for site in federation.sites[1:]:
        federation.members[site].accept(federation.terms, dealt[site])
    answers = {site: federation.upload(site, federation.round_terms()) for site in federation.sites}
    some = letters({site: answers[site] for site in federation.sites[:4]})
    for site in federation.sites[:4]:
        with pytest.raises(Tampered, match="another round, model or set of sites"):
            federation.members[site].agree(federation.terms, federation.round_terms(), some)
    contexts = {federation.members[site].prepare(federation.terms, federation.round_terms()).context for site in federation.sites[:2]}
    assert len(contexts) == 2


def test_every_part_of_a_round_is_in_its_context() -> None:
    """Roster (and so threshold), set-up, members, round, model and layout: other terms at one site give it other masks."""
    federation = Federation(3)
    epoch, terms = federation.terms, federation.round_terms()
    larger = Roster(STUDY, dict(federation.roster.members) | {"site-9": SigningKey.generate().public})
    other = Roster("1" * 64, federation.roster.members)
    epochs = [epoch.model_copy(update=change) for change in ({"attempt": 2}, {"stage": "final"}, {"rounds": 2}, {"first_round": 0})]
    rounds = [terms.model_copy(update=change) for change in ({"round_number": 2}, {"inputs": {"model": "1" * 64}}, {"layout": "1" * 64})]
    contexts = [round_context(roster, epoch, "0" * 64, terms) for roster in (federation.roster, larger, other)]
    contexts += [round_context(federation.roster, one, "0" * 64, terms) for one in epochs]
    contexts += [round_context(federation.roster, epoch, "0" * 64, one) for one in rounds]
    contexts += [round_context(federation.roster, epoch, "1" * 64, terms)]
    assert len(set(contexts)) == len(contexts) == 11
    private, peer = draw_secret(), public(draw_secret())
    assert len({pair_seed(private, peer, context, 1, 2) for context in contexts} | {own_seed(private, context, 1) for context in contexts}) == 22


def test_parcels_altered_or_left_out_on_the_way_are_refused() -> None:
    federation = Federation(3)
    epoch = Epoch(federation.roster, federation.terms)
    dealt = epoch.collect_shares(
        {site: federation.members[site].share(federation.terms, text) for site, text in federation.keys_message(epoch).items()}
    )
    deals = Deals.model_validate_json(dealt["site-0"])
    parcels, paths = pieces(deals.parcels, 3, len(deals.parcels) // 3), pieces(deals.paths, 3, len(deals.paths) // 3)
    for swapped, along, named in (
        ([parcels[0], parcels[2], parcels[1]], paths, "'site-1'"),
        ([parcels[0], parcels[2], parcels[1]], [paths[0], paths[2], paths[1]], "'site-1'"),
        ([parcels[0], bytes(len(parcels[1])), parcels[2]], paths, "'site-1'"),
        ([parcels[0], parcels[2]], paths, "not one parcel"),
        (parcels, paths[:2], "not one parcel"),
    ):
        message = deals.model_copy(update={"parcels": b"".join(swapped), "paths": b"".join(along)})
        with pytest.raises(Tampered, match=named):
            federation.members["site-0"].accept(federation.terms, message.model_dump_json())
    # the true message is still taken
    assert federation.members["site-0"].accept(federation.terms, dealt["site-0"]) == ()


# The coordinator in a round


def test_the_threshold_cannot_be_lowered() -> None:
    federation = Federation(4)
    epoch = federation.set_up()
    current, messages = federation.update_phase(epoch)
    answers = agreed(federation, messages)
    few = {site: answers[site] for site in federation.sites[: federation.roster.threshold - 1]}
    with pytest.raises(NotAllowed, match="must"):
        federation.members["site-0"].reveal(federation.terms, current.terms, letters(few))
    # one signature under two names is one signature, one's own too
    for twice in ("site-0", "site-1"):
        with pytest.raises(Tampered):
            federation.members["site-0"].reveal(federation.terms, current.terms, letters(few | {"site-3": few[twice]}))
    with pytest.raises(NotAvailable):
        current.collect_agreements(few)


def test_a_smaller_sum_than_the_threshold_is_refused() -> None:
    federation = Federation(5)
    _, messages = federation.update_phase(federation.set_up())
    signed = Letters.model_validate_json(messages["site-0"]).signed
    with pytest.raises(NotAvailable):
        federation.members["site-0"].agree(federation.terms, federation.round_terms(), letters({site: signed[site] for site in federation.sites[:3]}))


def test_two_sets_of_survivors_open_neither_or_one() -> None:
    """The difference of two sums over sets that differ in site-4 would be its update."""
    federation = Federation(5)
    _, messages = federation.update_phase(federation.set_up())
    everyone = Letters.model_validate_json(messages["site-0"]).signed
    without_4 = {site: text for site, text in everyone.items() if site != "site-4"}
    terms = federation.round_terms()
    answers = {site: federation.members[site].agree(federation.terms, terms, letters(everyone)) for site in federation.sites[2:]}
    answers |= {site: federation.members[site].agree(federation.terms, terms, letters(without_4)) for site in federation.sites[:2]}
    with pytest.raises(Conflict, match="another set"):
        federation.members["site-0"].agree(federation.terms, terms, letters(everyone))
    for site in federation.sites[:4]:
        with pytest.raises((Tampered, NotAllowed)):
            federation.members[site].reveal(federation.terms, terms, letters(answers))
        same = [name for name in answers if opened_agreement(federation, answers, name) == opened_agreement(federation, answers, site)]
        with pytest.raises(NotAllowed):
            federation.members[site].reveal(federation.terms, terms, letters({name: answers[name] for name in same}))


def test_a_site_that_signs_two_updates_gets_no_second_agreement() -> None:
    """The same sites, but another update of one of them: a second signature would serve for a second sum."""
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up())
    agreed(federation, messages)
    signed = dict(Letters.model_validate_json(messages["site-0"]).signed)
    update = opened(signed["site-3"], Update, federation.keys["site-3"].public)
    second = sign(update.model_copy(update={"uploads": {"update": text_digest("x")}}), federation.keys["site-3"])
    with pytest.raises(Conflict, match="another set"):
        federation.members["site-0"].agree(federation.terms, current.terms, letters(signed | {"site-3": second}))


def opened_agreement(federation: Federation, answers: Mapping[SiteId, str], site: SiteId) -> tuple[int, ...]:
    return opened(answers[site], Agreement, federation.keys[site].public).survivors


def test_never_both_secrets_of_one_site() -> None:
    """First the sum with site-4, then a second opening that declares it lost: its key with its own mask would unmask it."""
    federation = Federation(5)
    current, messages = federation.update_phase(federation.set_up())
    agreements = current.collect_agreements(agreed(federation, messages))
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    for site, text in reveals.items():
        reveal = opened(text, Reveal, federation.keys[site].public)
        assert not reveal.own.keys() & reveal.keys.keys()
        assert reveal.own.keys() | reveal.keys.keys() == {federation.roster.index(member) for member in federation.sites}
    fewer = {site: text for site, text in Letters.model_validate_json(messages["site-0"]).signed.items() if site != "site-4"}
    for site in federation.sites[:4]:
        with pytest.raises(Conflict):
            federation.members[site].agree(federation.terms, current.terms, letters(fewer))
        assert federation.members[site].reveal(federation.terms, current.terms, agreements[site]) == reveals[site]


def test_a_site_outside_the_set_reveals_nothing() -> None:
    federation = Federation(5)
    epoch = federation.set_up()
    federation.upload("site-4", federation.round_terms())  # too late
    current, messages = federation.update_phase(epoch, federation.sites[:4])
    with pytest.raises(NotAllowed):
        federation.members["site-4"].agree(federation.terms, current.terms, messages["site-0"])
    answers = agreed(federation, messages)
    mine = opened(answers["site-0"], Agreement, federation.keys["site-0"].public)
    lent = sign(mine.model_copy(update={"site": "site-4"}), federation.keys["site-4"])
    with pytest.raises(NotAllowed, match="not among the survivors"):
        few = {site: answers[site] for site in federation.sites[:3]}
        federation.members["site-0"].reveal(federation.terms, current.terms, letters(few | {"site-4": lent}))
    agreements = current.collect_agreements(answers)
    with pytest.raises(Conflict):
        federation.members["site-4"].reveal(federation.terms, current.terms, agreements["site-0"])
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    assert own_shares(federation, reveals, "site-4") == {}
    assert federation.sum(current, current.collect_reveals(reveals)).tolist() == federation.plain(federation.sites[:4]).tolist()


def test_an_update_that_nobody_handed_in_cannot_stand_for_a_site() -> None:
    federation = Federation(5)
    current, messages = federation.update_phase(federation.set_up(), federation.sites[:4])
    signed = dict(Letters.model_validate_json(messages["site-0"]).signed)
    invented = opened(signed["site-0"], Update, federation.keys["site-0"].public).model_copy(update={"site": "site-4"})
    for forged in (sign(invented, federation.keys["site-0"]), signed["site-0"]):
        with pytest.raises(Tampered):
            federation.members["site-0"].agree(federation.terms, current.terms, letters(signed | {"site-4": forged}))


def test_a_site_of_the_roster_that_missed_the_set_up_is_no_survivor() -> None:
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up({"shares": {"site-3"}}))
    signed = dict(Letters.model_validate_json(messages["site-0"]).signed)
    update = opened(signed["site-0"], Update, federation.keys["site-0"].public).model_copy(update={"site": "site-3"})
    joined = signed | {"site-3": sign(update, federation.keys["site-3"])}
    with pytest.raises(NotAllowed, match="not a member"):
        federation.members["site-0"].agree(federation.terms, current.terms, letters(joined))


def test_different_models_to_two_sites_give_noise_and_open_nothing() -> None:
    """Pasquini et al. 2022: the other sites get a model whose update is zero, and the sum is the victim's."""
    federation = Federation(4)
    epoch = federation.set_up()
    honest, trapped = federation.round_terms(), federation.round_terms(model=b"a model without a gradient")
    terms = {site: honest if site == "site-0" else trapped for site in federation.sites}
    answers = {site: federation.upload(site, terms[site]) for site in federation.sites}
    with pytest.raises(NotAvailable):
        epoch.start(honest).collect_updates(answers, federation.digests(answers))
    for site in federation.sites:
        with pytest.raises(Tampered, match="another round, model"):
            federation.members[site].agree(federation.terms, terms[site], letters(answers))
    # and if all secrets lay open, the masks would still not cancel
    context = epoch.start(honest).context
    own = [
        own_seed(federation.members[site]._round(federation.terms, honest).own, context, federation.roster.index(site)) for site in federation.sites
    ]
    with pytest.raises(BadUpdate):
        unmask([federation.uploads[site, 1] for site in federation.sites], federation.layout, context, own, [], [])


def test_a_replayed_round_gives_the_same_words_and_takes_no_other_update() -> None:
    federation = Federation(3)
    epoch = federation.set_up()
    federation.play(epoch)
    first = federation.uploads["site-0", 1]
    federation.updates["site-0"] = {"update": {"w": np.array([9, 9, 9])}}
    with pytest.raises(Conflict, match="another update"):
        federation.upload("site-0", federation.round_terms())
    for site in federation.sites:
        federation.members[site].close(federation.terms)
        with pytest.raises(Conflict):
            federation.members[site].advertise(federation.terms)
    again = Federation.__new__(Federation)
    again.__dict__ |= federation.__dict__ | {"terms": federation.terms.model_copy(update={"attempt": 2}), "uploads": {}}
    again.play(again.set_up())
    assert not np.array_equal(again.uploads["site-0", 1]["update"]["w"], first["update"]["w"])


def test_a_further_attempt_opens_no_other_sum_of_the_same_round() -> None:
    """The coordinator holds the sum of all, says that it was lost, and leaves site-4 out of the next attempt: the difference is its update."""
    federation = Federation(5)
    federation.play(federation.set_up())
    federation.terms = federation.terms.model_copy(update={"attempt": 2})
    epoch = federation.set_up()
    current, messages = federation.update_phase(epoch, federation.sites[:4])
    for site in federation.sites[:4]:
        with pytest.raises(Conflict, match="earlier attempt"):
            federation.members[site].agree(federation.terms, current.terms, messages[site])
    federation.terms = federation.terms.model_copy(update={"attempt": 3})
    total, _ = federation.play(federation.set_up())
    assert total.tolist() == federation.plain(federation.sites).tolist()


@final
class CutOff(MemoryVault):
    """Of which a power cut leaves what was on the disk: all up to the last change that lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[str, bytes] = {}

    def change(self, keep: Mapping[str, bytes], erase: Collection[str] = (), *, lasting: bool = False) -> None:
        super().change(keep, erase)
        if lasting:
            self.disk = dict(self.documents)

    def cut(self) -> None:
        self.documents = dict(self.disk)
        forget(self, STUDY)


@pytest.mark.parametrize("was_opened", [False, True], ids=["agreed", "opened"])
def test_after_a_power_cut_no_site_signs_or_opens_a_second_time(was_opened: bool) -> None:
    federation = Federation(5)
    vaults = {site: CutOff() for site in federation.sites}
    federation.members = {site: Member(federation.roster, site, federation.keys[site], vaults[site]) for site in federation.sites}
    epoch = federation.set_up()
    if was_opened:
        federation.play(epoch)
    else:
        agreed(federation, federation.update_phase(epoch)[1])
    for vault in vaults.values():
        vault.cut()
    for member in federation.members.values():
        with pytest.raises((Conflict, NotFound)):
            member.prepare(federation.terms, federation.round_terms())
    federation.terms = federation.terms.model_copy(update={"attempt": 2})
    current, messages = federation.update_phase(federation.set_up(), federation.sites[:4])
    for site in federation.sites[:4]:
        member = federation.members[site]
        if was_opened:
            with pytest.raises(Conflict, match="earlier attempt"):
                member.agree(federation.terms, current.terms, messages[site])
        else:
            assert member.agree(federation.terms, current.terms, messages[site]), "of the first nothing was opened, and its keys are gone"


def test_two_attempts_that_both_wait_for_their_opening_open_one() -> None:
    federation = Federation(5)
    first, second = federation.terms, federation.terms.model_copy(update={"attempt": 2})
    waiting = []
    for terms, sites in ((first, federation.sites), (second, federation.sites[:4])):
        federation.terms = terms
        current, messages = federation.update_phase(federation.set_up(), sites)
        waiting.append((terms, current, current.collect_agreements(agreed(federation, messages))))
    for site in federation.sites[:4]:
        with pytest.raises(Conflict, match="closed"):
            federation.members[site].reveal(first, waiting[0][1].terms, waiting[0][2][site])
        federation.members[site].reveal(second, waiting[1][1].terms, waiting[1][2][site])


def test_messages_of_an_earlier_attempt_are_worth_nothing_in_the_next() -> None:
    federation = Federation(3)
    old_epoch = federation.set_up()
    old_current, old_survivors = federation.update_phase(old_epoch)
    old_agreements = agreed(federation, old_survivors)
    old_keys = old_epoch.key_messages()["site-0"]
    federation.terms = federation.terms.model_copy(update={"attempt": 2})
    member = federation.members["site-0"]
    member.advertise(federation.terms)
    with pytest.raises(Tampered):
        member.share(federation.terms, old_keys)
    epoch = federation.set_up()
    with pytest.raises(Conflict):
        member.accept(federation.terms, old_epoch.share_messages()["site-0"])
    current, messages = federation.update_phase(epoch)
    with pytest.raises(NotAllowed):
        member.agree(federation.terms, current.terms, old_survivors["site-0"])
    agreed(federation, messages)
    with pytest.raises(Tampered):
        member.reveal(federation.terms, current.terms, letters(old_agreements))
    assert old_current.context != current.context


def test_a_secret_shared_for_one_round_says_nothing_of_another() -> None:
    """site-3 falls out of round 2, so its key of round 2 is opened: its update of round 1 must stay hidden."""
    federation = Federation(4, rounds=2)
    epoch = federation.set_up()
    federation.play(epoch, number=1)
    known = [federation.members["site-3"]._round(federation.terms, federation.round_terms(number)) for number in (1, 2)]
    total, _ = federation.play(epoch, {"update": {"site-3"}}, 2)
    assert total.tolist() == federation.plain(federation.sites[:3]).tolist()
    assert len({known[0].private, known[0].own, known[1].private, known[1].own}) == 4


# Sites that cheat


@pytest.mark.parametrize(
    "change",
    [
        {"secrets": ()},
        {"parcels": "0" * 64},
        {"site": "site-2"},
        {"study": "0" * 64},
        {"epoch": EpochTerms(stage="train", attempt=2, first_round=1, rounds=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_dealer_whose_bundle_is_not_whole_or_not_for_this_set_up_is_out(change: dict[str, Any]) -> None:
    """The others go on without it, and no site takes such a bundle from a coordinator that lets it pass."""
    federation = Federation(4)
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch)
    answers = {site: federation.members[site].share(federation.terms, text) for site, text in messages.items()}
    dealt = Dealt.model_validate_json(answers["site-3"])
    bundle = opened(dealt.bundle, Bundle, federation.keys["site-3"].public).model_copy(update=change)
    forged = dealt.model_copy(update={"bundle": sign(bundle, federation.keys["site-3"])})
    honest = Deals.model_validate_json(Epoch.resume(federation.roster, epoch.document()).collect_shares(answers)["site-0"])
    assert set(epoch.collect_shares(answers | {"site-3": forged.model_dump_json()})) == set(federation.sites[:3])
    deals = honest.model_copy(update={"bundles": dict(honest.bundles) | {"site-3": forged.bundle}})
    with pytest.raises(Tampered):
        federation.members["site-0"].accept(federation.terms, deals.model_dump_json())


def test_a_dealer_who_signs_fewer_parcels_than_there_are_sites_is_out() -> None:
    federation = Federation(4)
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch)
    answers = {site: federation.members[site].share(federation.terms, text) for site, text in messages.items()}
    dealt = Dealt.model_validate_json(answers["site-3"])
    bundle = opened(dealt.bundle, Bundle, federation.keys["site-3"].public)
    parcels = pieces(dealt.parcels, 4, len(dealt.parcels) // 4)
    for fewer in (parcels[:3], [*parcels[:3], parcels[3][:-1]]):
        signed = sign(bundle.model_copy(update={"parcels": HashTree(fewer).root.hex()}), federation.keys["site-3"])
        forged = Dealt(bundle=signed, parcels=b"".join(fewer)).model_dump_json()
        others = Epoch.resume(federation.roster, epoch.document()).collect_shares(answers | {"site-3": forged})
        assert set(others) == set(federation.sites[:3])


def test_a_dealer_without_a_key_on_the_list_is_refused() -> None:
    """A site of the roster, in league with the coordinator: nobody could mask towards it."""
    federation = Federation(5)
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch, federation.sites[:4])
    deals = {site: Dealt.model_validate_json(federation.members[site].share(federation.terms, text)) for site, text in messages.items()}
    bundle = opened(deals["site-3"].bundle, Bundle, federation.keys["site-3"].public).model_copy(update={"site": "site-4"})
    late = Dealt(bundle=sign(bundle, federation.keys["site-4"]), parcels=deals["site-3"].parcels)
    bundles = {site: one.bundle for site, one in (deals | {"site-4": late}).items()}
    with pytest.raises(NotAllowed, match="without a key in the list"):
        federation.members["site-0"].accept(federation.terms, Deals(bundles=bundles, parcels=b"", paths=b"").model_dump_json())
    assert "site-4" not in epoch.collect_shares({site: one.model_dump_json() for site, one in (deals | {"site-4": late}).items()})


def test_keys_that_a_site_signed_under_anothers_name_are_refused() -> None:
    federation = Federation(4)
    signed = advertised(federation)
    document = opened(signed["site-1"], Keys, federation.keys["site-1"].public).model_copy(update={"site": "site-2"})
    with pytest.raises(Tampered, match="another study, roster, set-up or site"):
        federation.members["site-0"].share(federation.terms, letters(signed | {"site-1": sign(document, federation.keys["site-1"])}))


def cheating_share(federation: Federation, cheat: SiteId, keys: Mapping[SiteId, str], shares: Mapping[SiteId, list[bytes]], *, lie: bool) -> str:
    """What a dealer sends who packs other shares than those of its secrets; with ``lie``, not even those that it commits to."""
    digest = letters_digest("keys", keys)
    honest = Dealt.model_validate_json(federation.members[cheat].share(federation.terms, letters(keys)))
    index, order = federation.roster.index, sorted(keys)
    parcels = pieces(honest.parcels, len(keys), len(honest.parcels) // len(keys))
    for victim, content in shares.items():
        seal = opened(keys[victim], Keys, federation.keys[victim].public).seal
        parcel = pack(content, seal, place(set_up_digest(federation.roster, federation.terms, digest), index(cheat), index(victim)))
        committed = 32 * len(content)
        at = order.index(victim)
        parcels[at] = parcel[:-committed] + parcels[at][-committed:] if lie else parcel
    bundle = opened(honest.bundle, Bundle, federation.keys[cheat].public)
    bundle = bundle.model_copy(update={"parcels": HashTree(parcels).root.hex()})
    return Dealt(bundle=sign(bundle, federation.keys[cheat]), parcels=b"".join(parcels)).model_dump_json()


def cheated_epoch(federation: Federation, victims: list[SiteId], *, lie: bool) -> Epoch:
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch)
    keys = Letters.model_validate_json(messages["site-0"]).signed
    answers = {site: federation.members[site].share(federation.terms, message) for site, message in messages.items()}
    answers["site-0"] = cheating_share(federation, "site-0", keys, {site: [draw_secret(), draw_secret()] for site in victims}, lie=lie)
    cheat = federation.members["site-0"]
    bundle = Dealt.model_validate_json(answers["site-0"]).bundle
    cheat.vault.change({cheat._state(federation.terms): cbor2.dumps(cheat._known(federation.terms) | {"bundle": bundle})})
    dealt = epoch.collect_shares(answers)
    for site, message in dealt.items():
        complaints = federation.members[site].accept(federation.terms, message)
        assert complaints == (("site-0",) if lie and site in victims else ())
    return epoch


def test_a_parcel_that_breaks_its_own_commitment_is_reported_and_the_sum_is_exact() -> None:
    federation = Federation(4)
    total, _ = federation.play(cheated_epoch(federation, ["site-1"], lie=True))
    assert total.tolist() == federation.plain(federation.sites).tolist()


def test_of_three_sites_a_parcel_of_no_use_names_dealer_and_recipient() -> None:
    federation = Federation(3)
    with pytest.raises(NotAvailable, match="Either 'site-0' dealt 'site-1' a share of no use, or 'site-1' holds it back"):
        federation.play(cheated_epoch(federation, ["site-1"], lie=True))


def test_shares_of_another_secret_end_the_round_and_name_their_dealer() -> None:
    federation = Federation(3)
    epoch = cheated_epoch(federation, ["site-1", "site-2"], lie=False)
    with pytest.raises(Tampered, match="'site-0' has not kept to the protocol"):
        federation.play(epoch)


def test_a_corrupt_share_in_the_last_phase_is_passed_over() -> None:
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up())
    agreements = current.collect_agreements(agreed(federation, messages))
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    reveal = opened(reveals["site-0"], Reveal, federation.keys["site-0"].public)
    corrupt = reveal.model_copy(update={"own": dict(reveal.own) | {federation.roster.index("site-2"): bytes(32)}})
    reveals["site-0"] = sign(corrupt, federation.keys["site-0"])
    assert federation.sum(current, current.collect_reveals(reveals)).tolist() == federation.plain(federation.sites).tolist()
    assert current.dropped.keys() == {"site-0"}


def test_too_many_corrupt_shares_open_nothing() -> None:
    federation = Federation(3)
    current, messages = federation.update_phase(federation.set_up())
    agreements = current.collect_agreements(agreed(federation, messages))
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    reveal = opened(reveals["site-0"], Reveal, federation.keys["site-0"].public)
    reveals["site-0"] = sign(reveal.model_copy(update={"own": {federation.roster.index("site-2"): bytes(32)}}), federation.keys["site-0"])
    with pytest.raises(NotAvailable):
        current.collect_reveals(reveals)


def test_a_site_that_masks_with_wrong_seeds_spoils_the_sum_and_is_noticed() -> None:
    federation = Federation(3)
    epoch = federation.set_up()
    current, _ = federation.update_phase(epoch)
    seeds = federation.members["site-1"].prepare(federation.terms, current.terms)
    wrong = mask(federation.updates["site-1"], federation.layout, seeds.context, draw_secret(), seeds.plus, seeds.minus)
    federation.uploads["site-1", 1] = read(wrong)
    agreements = current.collect_agreements(agreed(federation, current.survivor_messages()))
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    opened_round = current.collect_reveals(reveals)
    with pytest.raises(BadUpdate):
        federation.sum(current, opened_round)


def test_a_site_that_signs_another_set_is_dropped() -> None:
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up())
    answers = agreed(federation, messages)
    mine = opened(answers["site-0"], Agreement, federation.keys["site-0"].public)
    for other in ({"updates": text_digest("x")}, {"survivors": mine.survivors[:-1]}):
        false = answers | {"site-0": sign(mine.model_copy(update=other), federation.keys["site-0"])}
        assert set(Round.resume(current.epoch, current.document()).collect_agreements(false)) == set(federation.sites[1:])
    messages = current.collect_agreements(false)
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in messages.items()}
    assert federation.sum(current, current.collect_reveals(reveals)).tolist() == federation.plain(federation.sites).tolist()


@pytest.mark.parametrize("who", ["one who has not agreed", "one who reveals both secrets"])
def test_a_site_that_reveals_more_than_it_was_asked_for_is_dropped(who: str) -> None:
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up())
    agreements = current.collect_agreements({site: text for site, text in agreed(federation, messages).items() if site != "site-3"})
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, text) for site, text in agreements.items()}
    if who == "one who has not agreed":
        liar, reveals["site-3"] = "site-3", federation.members["site-3"].reveal(federation.terms, current.terms, agreements["site-0"])
        assert federation.sum(current, current.collect_reveals(reveals)).tolist() == federation.plain(federation.sites).tolist()
    else:
        liar, said = "site-1", opened(reveals["site-1"], Reveal, federation.keys["site-1"].public)
        reveals["site-1"] = sign(said.model_copy(update={"keys": {federation.roster.index("site-2"): draw_secret()}}), federation.keys["site-1"])
        with pytest.raises(NotAvailable):
            current.collect_reveals(reveals)
    assert "not asked for" in current.dropped[liar]


# Sites that fall silent


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_silence_in_any_phase_ends_in_the_exact_sum_or_in_nothing(n: int, phase: str) -> None:
    spare = n - Federation(n).roster.threshold
    for count in sorted({1, spare, spare + 1}):
        federation = Federation(n)
        silent = set(federation.sites[-count:]) if count else set()
        gone = dict.fromkeys(PHASES[PHASES.index(phase) :], silent)
        if count <= spare:
            total, survivors = federation.play(federation.set_up(gone), gone)
            expected = set(federation.sites) - (silent if phase in ("keys", "shares", "update") else set())
            assert survivors == expected
            assert total.tolist() == federation.plain(expected).tolist()
        else:
            with pytest.raises(NotAvailable, match="Not enough sites"):
                federation.play(federation.set_up(gone), gone)


def test_below_the_threshold_the_shares_are_any_secrets() -> None:
    """What a coordinator holds after a round that failed for one missing answer does not open a mask."""
    federation = Federation(5)
    current, messages = federation.update_phase(federation.set_up())
    agreements = current.collect_agreements(agreed(federation, messages))
    some = federation.sites[: federation.roster.threshold - 1]
    reveals = {site: federation.members[site].reveal(federation.terms, current.terms, agreements[site]) for site in some}
    with pytest.raises(NotAvailable):
        current.collect_reveals(reveals)
    known = federation.members["site-4"]._round(federation.terms, current.terms)
    assert combine(own_shares(federation, reveals, "site-4")) != known.own


def test_a_coalition_learns_only_the_sum_of_the_rest() -> None:
    """The coordinator and one of four sites together: they hold the sum, and no second set of masks to take apart what is left of it."""
    federation = Federation(4)
    epoch = federation.set_up()
    current, _ = federation.update_phase(epoch)
    seeds = {site: federation.members[site].prepare(federation.terms, current.terms) for site in federation.sites}
    theirs = {seeds["site-0"].own, *seeds["site-0"].plus, *seeds["site-0"].minus}
    for site in federation.sites[1:]:
        hidden = {*seeds[site].plus, *seeds[site].minus} - theirs
        assert len(hidden) == 2
