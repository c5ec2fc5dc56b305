from __future__ import annotations

import json

import pytest
from secure_federation import Federation

from aimer2.core.errors import Conflict, NotAvailable, Tampered, VersionMismatch
from aimer2.secure_aggregation.coordinator import Epoch, Round
from aimer2.secure_aggregation.messages import EpochTerms


def test_who_missed_one_round_takes_part_in_the_next() -> None:
    federation = Federation(4, rounds=2)
    epoch = federation.set_up()
    total, _ = federation.play(epoch, {"update": {"site-1"}}, 1)
    assert total.tolist() == federation.plain(["site-0", "site-2", "site-3"]).tolist()
    total, _ = federation.play(epoch, {"update": {"site-2"}}, 2)
    assert total.tolist() == federation.plain(["site-0", "site-1", "site-3"]).tolist()


def test_a_restart_between_any_two_phases_changes_nothing() -> None:
    federation = Federation(4, rounds=2)
    epoch = federation.set_up({"shares": {"site-3"}})

    def restart(current: Round) -> Round:
        again = Epoch.resume(federation.roster, json.loads(json.dumps(current.epoch.document())))
        assert again.share_messages() == current.epoch.share_messages()
        return Round.resume(again, json.loads(json.dumps(current.document())))

    total, survivors = federation.play(restart(epoch.start(federation.round_terms())).epoch, twist=restart)
    assert survivors == {"site-0", "site-1", "site-2"}
    assert total.tolist() == federation.plain(survivors).tolist()


def test_a_restart_between_the_phases_of_the_set_up() -> None:
    federation = Federation(3)
    epoch = Epoch(federation.roster, federation.terms)
    messages = federation.keys_message(epoch)
    again = Epoch.resume(federation.roster, json.loads(json.dumps(epoch.document())))
    assert again.key_messages() == messages
    dealt = again.collect_shares({site: federation.members[site].share(federation.terms, text) for site, text in messages.items()})
    assert {site: federation.members[site].accept(federation.terms, text) for site, text in dealt.items()} == dict.fromkeys(federation.sites, ())


def test_a_document_changed_on_the_disk_is_noticed() -> None:
    federation = Federation(3)
    document = federation.set_up().document()
    document["dealt"]["site-0"] = document["dealt"]["site-1"]
    with pytest.raises(Tampered):
        Epoch.resume(federation.roster, document)


def test_a_round_changed_on_the_disk_is_noticed() -> None:
    federation = Federation(4)
    current, messages = federation.update_phase(federation.set_up())
    current.collect_agreements({site: federation.members[site].agree(federation.terms, current.terms, text) for site, text in messages.items()})
    for part in ("updates", "agreements"):
        document = current.document()
        with pytest.raises(Tampered):
            Round.resume(current.epoch, document | {part: document[part] | {"site-0": document[part]["site-1"]}})


def test_what_another_version_kept_is_told_as_such() -> None:
    federation = Federation(3)
    with pytest.raises(VersionMismatch):
        Epoch.resume(federation.roster, federation.set_up().document() | {"protocol": "AIMER2/SA1"})


def test_what_was_decided_stays() -> None:
    federation = Federation(4)
    epoch = federation.set_up()
    with pytest.raises(Conflict):
        epoch.collect_shares({})
    current, _ = federation.update_phase(epoch, federation.sites[:3])
    with pytest.raises(Conflict):
        current.collect_updates({}, {})
    with pytest.raises(Conflict):
        epoch.start(federation.round_terms(2))


def test_an_upload_that_its_site_did_not_sign_is_no_part_of_the_sum() -> None:
    federation = Federation(4)
    epoch = federation.set_up()
    terms = federation.round_terms()
    answers = {site: federation.upload(site, terms) for site in federation.sites}
    found = federation.digests(answers)
    current = epoch.start(terms)
    current.collect_updates(answers, found | {"site-2": found["site-1"]})
    assert set(current.uploads) == {"site-0", "site-1", "site-3"}
    assert "something else" in current.dropped["site-2"]


def test_a_bad_message_drops_its_site_with_a_reason_and_the_others_go_on() -> None:
    federation = Federation(4)
    epoch = Epoch(federation.roster, federation.terms)
    answers = {site: federation.members[site].advertise(federation.terms) for site in federation.sites}
    answers |= {"site-1": answers["site-2"], "stranger": answers["site-3"]}
    messages = epoch.collect_keys(answers)
    assert set(messages) == {"site-0", "site-2", "site-3"}
    assert epoch.dropped.keys() == {"site-1", "stranger"}
    assert all(reason.endswith(".") for reason in epoch.dropped.values())


def test_keys_of_another_epoch_are_not_taken() -> None:
    federation = Federation(3)
    later = EpochTerms(stage="train", attempt=2, first_round=1, rounds=1)
    with pytest.raises(NotAvailable):
        Epoch(federation.roster, federation.terms).collect_keys({site: federation.members[site].advertise(later) for site in federation.sites})
