from __future__ import annotations

import cbor2
import pytest
from secure_federation import STUDY, Federation

from aimer2.core.errors import Conflict, NotAllowed, NotAvailable, NotFound, Tampered
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.messages import Deals, EpochTerms, Letters
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault

OTHER_UPLOAD = {"update": "0" * 64, "secure": "0" * 64}


def test_every_phase_says_the_same_again_also_after_a_restart() -> None:
    federation = Federation(3)
    epoch, terms = federation.set_up(), federation.round_terms()
    first = [federation.members["site-0"].advertise(federation.terms)]
    current, survivors = federation.update_phase(epoch)
    agreed = {site: federation.members[site].agree(federation.terms, terms, survivors[site]) for site in federation.sites}
    agreements = current.collect_agreements(agreed)
    first += [agreed["site-0"], federation.members["site-0"].reveal(federation.terms, terms, agreements["site-0"])]

    member = Member(federation.roster, "site-0", federation.keys["site-0"], federation.vaults["site-0"])
    again = [member.advertise(federation.terms)]
    assert member.share(federation.terms, epoch.key_messages()["site-0"]) == member.share(federation.terms, epoch.key_messages()["site-0"])
    assert member.accept(federation.terms, epoch.share_messages()["site-0"]) == ()
    again += [member.agree(federation.terms, terms, survivors["site-0"]), member.reveal(federation.terms, terms, agreements["site-0"])]
    assert again == first
    assert federation.upload("site-0", terms) == Letters.model_validate_json(survivors["site-0"]).signed["site-0"]


def test_two_sites_derive_the_same_mask_and_no_other_site_does() -> None:
    federation = Federation(4)
    federation.set_up()
    seeds = {site: federation.members[site].prepare(federation.terms, federation.round_terms()) for site in federation.sites}
    added = [seed for prepared in seeds.values() for seed in prepared.plus]
    taken = [seed for prepared in seeds.values() for seed in prepared.minus]
    assert sorted(added) == sorted(taken)
    assert len(set(added)) == 6
    assert [len(seeds[site].plus) for site in federation.sites] == [3, 2, 1, 0]
    assert len({prepared.own for prepared in seeds.values()} | set(added)) == 10


def test_seeds_are_new_in_every_round_and_for_every_model() -> None:
    federation = Federation(3, rounds=2)
    federation.set_up()
    member = federation.members["site-0"]
    rounds = [federation.round_terms(1), federation.round_terms(2), federation.round_terms(1, b"another model")]
    seeds = [member.prepare(federation.terms, terms) for terms in rounds]
    assert len({seed for prepared in seeds for seed in (prepared.own, *prepared.plus)}) == 9


def test_a_second_different_update_is_refused() -> None:
    federation = Federation(3)
    federation.set_up()
    terms, member = federation.round_terms(), federation.members["site-0"]
    federation.upload("site-0", terms)
    with pytest.raises(Conflict, match="another update"):
        member.submit(federation.terms, terms, OTHER_UPLOAD)
    with pytest.raises(Conflict, match="another model"):
        federation.upload("site-0", federation.round_terms(model=b"another model"))


def test_a_lost_vault_means_sitting_out() -> None:
    federation = Federation(3)
    epoch = federation.set_up()
    fresh = Member(federation.roster, "site-0", federation.keys["site-0"], MemoryVault())
    with pytest.raises(NotFound):
        fresh.prepare(federation.terms, federation.round_terms())
    fresh.advertise(federation.terms)
    with pytest.raises(Tampered, match="own"):
        fresh.share(federation.terms, epoch.key_messages()["site-0"])


def test_an_epoch_that_an_earlier_version_has_begun_is_sat_out_and_the_next_one_is_not() -> None:
    federation = Federation(3)
    member, vault = federation.members["site-0"], federation.vaults["site-0"]
    keys = federation.set_up().key_messages()["site-0"]
    (name,) = [name for name in vault.documents if name.endswith("/state")]
    former = {key: value for key, value in cbor2.loads(vault.documents[name]).items() if key not in ("protocol", "useless")}
    for kept in (former, former | {"protocol": "AIMER2/SA1"}):
        vault.documents[name] = cbor2.dumps(kept | {"seen": {}, "shares": "{}"})
        for asked in (
            lambda: member.advertise(federation.terms),
            lambda: member.share(federation.terms, keys),
            lambda: member.accept(federation.terms, "{}"),
            lambda: member.prepare(federation.terms, federation.round_terms()),
        ):
            with pytest.raises(NotFound, match="sits it out"):
                asked()
    federation.terms = EpochTerms(stage="train", attempt=2, first_round=1, rounds=1)
    total, sites = federation.play(federation.set_up())
    assert len(sites) == 3 and total.tolist() == federation.plain(sites).tolist()


def test_nothing_empty_is_said_in_place_of_shares_that_are_lost() -> None:
    federation = Federation(3)
    epoch = federation.set_up()
    vault = federation.vaults["site-0"]
    (name,) = [name for name in vault.documents if name.endswith("/shares")]
    del vault.documents[name]
    with pytest.raises(NotFound):
        federation.members["site-0"].share(federation.terms, epoch.key_messages()["site-0"])


def test_handing_in_an_update_leaves_no_secret_of_the_rounds_before() -> None:
    federation = Federation(3, rounds=3)
    epoch = federation.set_up()
    vault, member = federation.vaults["site-0"], federation.members["site-0"]
    known = member._round(federation.terms, federation.round_terms())
    secrets = [known.own, known.private, *known.shares["site-1"]]
    federation.play(epoch)
    assert all(any(secret in document for document in vault.documents.values()) for secret in secrets)
    total, _ = federation.play(epoch, number=3)
    assert total.tolist() == federation.plain(federation.sites).tolist()
    assert not [name for name, document in vault.documents.items() for secret in secrets if secret in document]
    assert not [name for name in vault.documents if "/1/" in name]
    for closed in (1, 2):
        with pytest.raises(Conflict, match="closed"):
            member.prepare(federation.terms, federation.round_terms(closed))


def test_a_new_epoch_closes_the_one_before() -> None:
    federation = Federation(3)
    federation.set_up()
    member = federation.members["site-0"]
    later = federation.terms.model_copy(update={"attempt": 2})
    member.advertise(later)
    with pytest.raises(Conflict, match="closed"):
        member.prepare(federation.terms, federation.round_terms())
    with pytest.raises(Conflict, match="closed"):
        member.advertise(federation.terms)
    assert member.advertise(later)


def test_of_a_closed_epoch_only_a_mark_is_left() -> None:
    federation = Federation(3)
    federation.set_up()
    vault, member = federation.vaults["site-0"], federation.members["site-0"]
    member.close(federation.terms)
    assert set(vault.documents) == {f"{STUDY}/marks/closed/train-1-1", f"{STUDY}/current"}  # and which sums were opened, had there been one
    with pytest.raises(Conflict, match="closed"):
        member.advertise(federation.terms)


def test_a_forgotten_study_leaves_what_it_opened_and_no_secret() -> None:
    """Else a coordinator that says the study is over, and begins it again, has a second sum of the same round opened, with one site less."""
    federation = Federation(4)
    epoch = federation.set_up()
    vault, member = federation.vaults["site-0"], federation.members["site-0"]
    known = member._round(federation.terms, federation.round_terms())
    federation.play(epoch)
    for forgotten in federation.members.values():
        forgotten.forget()
    assert not [name for name, document in vault.documents.items() for secret in (known.own, known.private) if secret in document]
    with pytest.raises(Conflict, match="closed"):
        member.advertise(federation.terms)
    federation.terms = federation.terms.model_copy(update={"attempt": 2})
    current, messages = federation.update_phase(federation.set_up(), federation.sites[:3])
    with pytest.raises(Conflict, match="earlier attempt"):
        member.agree(federation.terms, current.terms, messages["site-0"])


def test_a_sum_that_others_may_have_opened_without_this_site_is_one_that_the_next_may_be_too_close_to() -> None:
    """Its share is not waited for once others have opened the sum. One that was lost, as its round is asked for again, is none of these."""
    federation = Federation(7, rounds=3)
    six, seven = federation.sites[:6], federation.sites

    def changed(messages: dict[str, str], number: int) -> tuple[str, ...]:
        member = Member(federation.roster, "site-0", federation.keys["site-0"], federation.vaults["site-0"])
        return member.changed(federation.terms, federation.round_terms(number), messages["site-0"])

    epoch = federation.set_up()
    federation.play(epoch, {"update": ["site-6"], "reveal": ["site-0"]})
    _, messages = federation.update_phase(epoch, seven, 2)
    for _ in range(2):  # asked twice
        assert changed(messages, 2) == ("site-6",)
        federation.members["site-0"].agree(federation.terms, federation.round_terms(2), messages["site-0"])

    federation.terms = federation.terms.model_copy(update={"attempt": 2, "first_round": 2, "rounds": 2})
    epoch = federation.set_up()
    _, messages = federation.update_phase(epoch, six, 2)
    assert changed(messages, 2) == ()
    federation.members["site-0"].agree(federation.terms, federation.round_terms(2), messages["site-0"])
    _, messages = federation.update_phase(epoch, seven, 3)
    assert changed(messages, 3) == ("site-6",)


def test_the_key_that_parcels_are_sealed_to_goes_once_they_are_open() -> None:
    federation = Federation(3)
    federation.set_up()
    assert "seal" not in federation.members["site-0"]._known(federation.terms)


def test_phases_out_of_order_are_refused() -> None:
    federation = Federation(3)
    member, terms = federation.members["site-0"], federation.round_terms()
    with pytest.raises(NotFound):
        member.share(federation.terms, Letters(signed={}).model_dump_json())
    member.advertise(federation.terms)
    with pytest.raises(Conflict):
        member.accept(federation.terms, Deals(bundles={}, parcels=b"", paths=b"").model_dump_json())
    with pytest.raises(Conflict):
        member.prepare(federation.terms, terms)
    epoch = federation.set_up()
    with pytest.raises(Conflict, match="not of this epoch"):
        member.prepare(federation.terms, federation.round_terms(2))
    with pytest.raises(NotAllowed):
        member.agree(federation.terms, terms, Letters(signed={}).model_dump_json())
    with pytest.raises(Conflict):
        member.reveal(federation.terms, terms, Letters(signed={}).model_dump_json())
    assert epoch.members == tuple(federation.sites)


def test_other_terms_under_the_same_name_are_refused() -> None:
    federation = Federation(3)
    member = federation.members["site-0"]
    member.advertise(federation.terms)
    with pytest.raises(Conflict, match="other terms"):
        member.advertise(EpochTerms(stage="train", attempt=1, first_round=1, rounds=2))


def test_a_foreign_key_makes_no_member() -> None:
    federation = Federation(3)
    with pytest.raises(NotAllowed):
        Member(federation.roster, "site-0", SigningKey.generate(), MemoryVault())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"signed":{"site-0":1}}', '{"signed":{},"more":1}', "\x00"])
def test_malformed_messages_are_refused(text: str) -> None:
    federation = Federation(3)
    federation.set_up()
    for call in (federation.members["site-0"].agree, federation.members["site-0"].reveal):
        with pytest.raises((Tampered, Conflict)):
            call(federation.terms, federation.round_terms(), text)


def test_too_few_keys_end_the_set_up() -> None:
    federation = Federation(4)
    signed = {site: federation.members[site].advertise(federation.terms) for site in federation.sites[:2]}
    with pytest.raises(NotAvailable, match="at least 3"):
        federation.members["site-0"].share(federation.terms, Letters(signed=signed).model_dump_json())
