"""The ledger as one process sees it: the budget and who sets it, reservations, what is told, the key that changes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadInput, BudgetExceeded, Conflict, NotAvailable, NotFound
from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.identity.keys import SigningKey
from aimer2.privacy import terms
from aimer2.privacy.accounting import Spent, epsilon, gaussian, laplace, subsampled_gaussian
from aimer2.site import enrolment
from aimer2.site.balance import Budget, Composition, are_different, ceiling, floor
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledger, Ledgers
from aimer2.study.spending import spending

ONE, OTHER = "1" * 64, "2" * 64
THREE = Budget(3.0, 1e-5)


@pytest.fixture
def folder(tmp_path) -> SiteFolder:  # type: ignore[no-untyped-def]
    made = SiteFolder(tmp_path / "site")
    made.path.mkdir()
    key = SigningKey.generate()
    made.public_keys.write_text(key.public.text + "\n")
    key.save(made.key)
    return made


@pytest.fixture
def opened(folder: SiteFolder) -> Callable[[], Ledgers]:
    """The ledgers as a process that has just been started opens them."""

    def make() -> Ledgers:
        key = SigningKey.load(folder.key)
        return Ledgers(folder, key, AuditLog(folder.audit, key, SystemClock()), SystemClock())

    return make


def allow(ledger: Ledger, budget: Budget) -> None:
    if not ledger.propose(budget, by="Dr Ada"):
        ledger.confirm(budget, by="Dr Bea")


@pytest.fixture
def heart(opened: Callable[[], Ledgers]) -> Ledger:
    ledger = opened().of("heart")
    allow(ledger, THREE)
    return ledger


def reached(ledger: Ledger) -> float:
    return ledger.balance().epsilon


# reservations


def test_without_a_budget_nothing_is_charged_and_the_command_is_told(opened: Callable[[], Ledgers]) -> None:
    ledger = opened().of("heart")
    with pytest.raises(BudgetExceeded, match='`aimer2 site budget set heart --epsilon 3 --delta 1e-05 --by "NAME"`'):
        ledger.reserve(ONE, "one", 1, gaussian(100))
    assert ledger.history() == []


def test_what_is_charged_is_what_the_accounting_says_of_all_of_it(heart: Ledger) -> None:
    charges = [gaussian(9), laplace(40), subsampled_gaussian(0.02, 1.1, 50), gaussian(9), gaussian(30, 2), laplace(40)]
    for number, spent in enumerate(charges):
        heart.reserve(ONE, str(number), 1, spent)
        assert reached(heart) == pytest.approx(epsilon(charges[: number + 1], 1e-5), abs=2e-3)


def test_what_is_told_of_a_study_is_its_own_and_nothing_of_others(heart: Ledger) -> None:
    for number in range(3):
        heart.reserve(ONE, f"one {number}", 1, gaussian(20))
        heart.reserve(OTHER, f"other {number}", 1, gaussian(15))
    heart.commit(ONE, "one 0", 1)
    heart.release(ONE, "one 2", 1)
    own = heart.charged(ONE)
    assert own.budget is None and own.epsilon == 0 and {key[1] for key in own.charges} == {"one 0", "one 1"}
    told = Composition().epsilon(own.totals, 1e-6)
    assert told == pytest.approx(epsilon([gaussian(20), gaussian(20)], 1e-6), rel=1e-3)
    assert told < reached(heart), "which holds the other's, too"
    assert heart.charged("3" * 64).charges == {}


def test_a_mechanism_of_long_ago_is_charged_again_and_given_back(heart: Ledger) -> None:
    past = [gaussian(20 + number) for number in range(8)]
    for number, spent in enumerate(past):
        heart.reserve(ONE, str(number), 1, spent)
    heart.reserve(OTHER, "again", 1, gaussian(20, 3))
    assert reached(heart) == pytest.approx(epsilon([*past[1:], gaussian(20, 4)], 1e-5), abs=1e-3)
    heart.release(ONE, "1", 1)
    assert reached(heart) == pytest.approx(epsilon([*past[2:], gaussian(20, 4)], 1e-5), abs=1e-3)


def test_a_refusal_says_what_would_be_reached_rounded_up_and_charges_nothing(heart: Ledger) -> None:
    heart.reserve(ONE, "one", 1, gaussian(3))
    before = reached(heart)
    told = ceiling(epsilon([gaussian(3), gaussian(1.5)], 1e-5))
    with pytest.raises(BudgetExceeded, match=f"would reach {told} of 3.00 ") as refused:
        heart.reserve(OTHER, "two", 1, gaussian(1.5))
    assert (refused.value.code, refused.value.status) == ("budget-exceeded", 403)
    assert reached(heart) == before
    assert len(heart.history()) == 3


def test_a_reservation_counts_until_it_is_released(heart: Ledger) -> None:
    large = gaussian(1.9)
    heart.reserve(ONE, "one", 1, large)
    with pytest.raises(BudgetExceeded):
        heart.reserve(OTHER, "one", 1, large)
    heart.release(ONE, "one", 1)
    assert reached(heart) == 0
    heart.reserve(OTHER, "one", 1, large)


def test_the_same_task_is_charged_once_and_its_next_attempt_again(heart: Ledger) -> None:
    for _ in range(3):
        heart.reserve(ONE, "one", 1, gaussian(5))
    once = reached(heart)
    heart.reserve(ONE, "one", 2, gaussian(5))
    assert (once, reached(heart)) == (epsilon([gaussian(5)], 1e-5), epsilon([gaussian(5, 2)], 1e-5))


def test_a_reservation_serves_for_nothing_else(heart: Ledger) -> None:
    heart.reserve(ONE, "one", 1, gaussian(10))
    with pytest.raises(Conflict, match="Something else"):
        heart.reserve(ONE, "one", 1, gaussian(2))


def test_what_was_committed_is_sent_again_but_never_computed_again_nor_released(heart: Ledger) -> None:
    heart.reserve(ONE, "one", 1, gaussian(10))
    heart.commit(ONE, "one", 1)
    heart.commit(ONE, "one", 1)
    with pytest.raises(Conflict, match="compute it anew"):
        heart.reserve(ONE, "one", 1, gaussian(10))
    with pytest.raises(Conflict, match="stays charged"):
        heart.release(ONE, "one", 1)
    assert [entry.kind for entry in heart.history()][2:] == [Kind.PRIVACY_RESERVED, Kind.PRIVACY_SPENT]


@pytest.mark.parametrize("call", [Ledger.commit, Ledger.release])
def test_nothing_is_committed_or_released_that_was_not_reserved(call: Callable[..., None], heart: Ledger) -> None:
    with pytest.raises(NotFound):
        call(heart, ONE, "one", 1)


def test_what_cost_nothing_is_sent_again_without_a_ledger(opened: Callable[[], Ledgers], heart: Ledger, folder: SiteFolder) -> None:
    opened().settle("lung", ONE, "one", 1)
    opened().settle("heart", ONE, "one", 1)
    assert (len(heart.history()), folder.ledger("lung").with_suffix(".lock").exists()) == (2, False)


# the edge of the budget


def test_a_study_that_takes_the_whole_budget_fits_to_its_last_round(opened: Callable[[], Ledgers]) -> None:
    """Composed round by round its ε would be rounded up in every one, and its last rounds refused."""
    rounds, ledger = 6, opened().of("heart")
    exact = epsilon([subsampled_gaussian(0.01, 1.0, 5 * rounds)], 1e-5)
    assert exact < epsilon([subsampled_gaussian(0.01, 1.0, 5)] * rounds, 1e-5)
    allow(ledger, Budget(exact, 1e-5))
    for number in range(rounds):
        ledger.reserve(ONE, str(number), 1, subsampled_gaussian(0.01, 1.0, 5))
    assert reached(ledger) == exact
    with pytest.raises(BudgetExceeded):
        ledger.reserve(ONE, "one more", 1, subsampled_gaussian(0.01, 1.0, 5))


def test_a_study_that_states_the_whole_budget_is_charged_to_its_end_and_no_further(
    opened: Callable[[], Ledgers], a_study: Callable[..., Study]
) -> None:
    asked = {"noise_multiplier": 1.0, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.01}
    whom = {"dataset": "heart", "minimum_patients": 100, "features": [{"name": "age"}], "target": {"name": "disease"}, "standardise": "none"}
    how = {"model": {"name": "logistic"}, "training": {"local_steps": 2}, "method": {"name": "fedavg", "rounds": 5}}
    study = a_study(privacy={"differential_privacy": asked}, cohort=whom, **how)
    ledger, states = opened().of("heart"), terms.terms(study).epsilon(5, evaluations=1)
    allow(ledger, Budget(states, 1e-5))
    stages: list[Stage] = ["train"] * 5 + ["final"]
    for number, stage in enumerate(stages):
        ledger.reserve(ONE, str(number), 1, spending(study, stage) or pytest.fail("it costs nothing"))
    assert reached(ledger) == states
    with pytest.raises(BudgetExceeded):
        ledger.reserve(ONE, "1", 2, spending(study, "train") or pytest.fail("it costs nothing"))


def test_one_unit_in_the_last_place_below_is_refused(opened: Callable[[], Ledgers]) -> None:
    ledger, wanted = opened().of("heart"), epsilon([gaussian(5)], 1e-5)
    allow(ledger, Budget(wanted - 2**-52, 1e-5))
    with pytest.raises(BudgetExceeded) as refused:
        ledger.reserve(ONE, "one", 1, gaussian(5))
    assert f"would reach {ceiling(wanted)} of {floor(wanted)} " in refused.value.sentence


@pytest.mark.parametrize(("value", "up", "down"), [(3.0, "3.00", "3.00"), (3.000001, "3.01", "3.00"), (2.9, "2.90", "2.90"), (0.015, "0.02", "0.01")])
def test_what_is_told_is_never_less_spent_and_never_more_allowed(value: float, up: str, down: str) -> None:
    assert (ceiling(value), floor(value)) == (up, down)


def test_hardly_any_noise_is_told_without_a_number(heart: Ledger) -> None:
    with pytest.raises(BudgetExceeded, match=r"would reach more than 100 of 3\.00 "):
        heart.reserve(ONE, "one", 1, gaussian(0.01))


# two persons


def test_the_first_budget_and_a_higher_one_need_a_second_person(opened: Callable[[], Ledgers]) -> None:
    ledger = opened().of("heart")
    assert ledger.propose(THREE, by="Dr Ada") is False
    assert (ledger.balance().budget, ledger.balance().set_by) == (None, ())
    ledger.confirm(THREE, by="Dr Bea")
    assert (ledger.balance().budget, ledger.balance().set_by) == (THREE, ("Dr Ada", "Dr Bea"))
    for more in (Budget(3.1, 1e-5), Budget(3.0, 1.1e-5), Budget(2.0, 1e-4)):
        assert ledger.propose(more, by="Dr Ada") is False
        assert ledger.balance().budget == THREE


def test_less_is_in_force_at_once_and_voids_what_was_proposed(heart: Ledger) -> None:
    heart.propose(Budget(10, 1e-5), by="Dr Ada")
    assert heart.propose(Budget(2, 1e-5), by="Dr Bea") is True
    assert (heart.balance().budget, heart.balance().set_by) == (Budget(2, 1e-5), ("Dr Bea",))
    with pytest.raises(Conflict, match="Nothing waits"):
        heart.confirm(Budget(10, 1e-5), by="Dr Cem")


def test_one_budget_below_what_is_spent_stops_everything(heart: Ledger) -> None:
    heart.reserve(ONE, "one", 1, gaussian(3))
    assert heart.propose(Budget(0.5, 1e-5), by="Dr Ada") is True
    with pytest.raises(BudgetExceeded, match=r"of 0\.50 "):
        heart.reserve(ONE, "two", 1, gaussian(100))


def test_a_smaller_delta_recounts_what_was_spent(heart: Ledger) -> None:
    heart.reserve(ONE, "one", 1, gaussian(3))
    heart.propose(Budget(3, 1e-7), by="Dr Ada")
    assert reached(heart) == epsilon([gaussian(3)], 1e-7)


@pytest.mark.parametrize("by", ["Dr Ada", "dr ada", " Ada ", "Ada, Dr", "Dr_Ada", "ＤＲ Ada"])
def test_nobody_confirms_what_he_proposed(by: str, heart: Ledger) -> None:
    heart.propose(Budget(4, 1e-5), by="Dr Ada")
    with pytest.raises(Conflict, match="second person"):
        heart.confirm(Budget(4, 1e-5), by=by)
    assert heart.balance().budget == THREE


def test_the_second_person_says_what_is_confirmed(heart: Ledger) -> None:
    """Else the first could raise the proposal between the second one's look and word."""
    heart.propose(Budget(4, 1e-5), by="Dr Ada")
    heart.propose(Budget(40, 1e-5), by="Dr Ada")
    with pytest.raises(Conflict, match=r"ε = 40.00 at δ = 1e-05 by Dr Ada waits"):
        heart.confirm(Budget(4, 1e-5), by="Dr Bea")


@pytest.mark.parametrize("by", ["", " ", "x", "--", "?!."])
def test_a_budget_has_a_named_person(by: str, heart: Ledger) -> None:
    with pytest.raises(BadInput):
        heart.propose(Budget(1, 1e-5), by=by)


@pytest.mark.parametrize("terms", [(0, 1e-5), (-1, 1e-5), (101, 1e-5), (float("nan"), 1e-5), (3, 0), (3, 1), (3, float("nan"))])
def test_what_is_no_budget(terms: tuple[float, float]) -> None:
    with pytest.raises(BadInput):
        Budget(*terms)


def test_different_people_may_share_a_title() -> None:
    assert are_different("Dr A", "Dr B")


# one lineage


def test_every_snapshot_and_study_of_a_data_set_share_its_ledger_and_other_data_sets_do_not(opened: Callable[[], Ledgers]) -> None:
    ledgers = opened()
    for name in ("heart", "lung"):
        allow(ledgers.of(name), THREE)
    ledgers.of("heart").reserve(ONE, "one", 1, gaussian(1.7))
    with pytest.raises(BudgetExceeded):
        ledgers.of("heart").reserve(OTHER, "one", 1, gaussian(1.7))
    ledgers.of("lung").reserve(OTHER, "one", 1, gaussian(1.7))


def test_a_data_set_under_the_budget_of_another_is_charged_there(opened: Callable[[], Ledgers]) -> None:
    ledgers = opened()
    allow(ledgers.of("heart"), THREE)
    ledgers.share("heart-women", "heart", by="Dr Ada", confirmed=False)
    with pytest.raises(BudgetExceeded, match="No privacy budget"):
        ledgers.of("heart-women").reserve(ONE, "one", 1, gaussian(1.7))
    ledgers.share("heart-women", "heart", by="Dr Bea", confirmed=True)
    ledgers.of("heart-women").reserve(ONE, "one", 1, gaussian(1.7))
    assert reached(ledgers.of("heart")) == epsilon([gaussian(1.7)], 1e-5)
    with pytest.raises(BudgetExceeded):
        opened().of("heart").reserve(OTHER, "one", 1, gaussian(1.7))


def test_a_data_set_is_under_one_budget_for_good(opened: Callable[[], Ledgers]) -> None:
    ledgers = opened()
    with pytest.raises(Conflict, match="no budget of its own"):
        ledgers.share("women", "heart", by="Dr Ada", confirmed=False)
    allow(ledgers.of("heart"), THREE)
    with pytest.raises(Conflict, match="has a budget of its own"):
        ledgers.share("heart", "heart", by="Dr Ada", confirmed=False)
    ledgers.share("women", "heart", by="Dr Ada", confirmed=False)
    ledgers.share("women", "heart", by="Dr Bea", confirmed=True)
    with pytest.raises(Conflict, match="for good"):
        ledgers.own("women").propose(THREE, by="Dr Ada")
    with pytest.raises(Conflict, match="no budget of its own"):
        ledgers.share("more", "women", by="Dr Ada", confirmed=False)


# another process, another day


def test_a_process_that_starts_knows_all_of_it(heart: Ledger, opened: Callable[[], Ledgers]) -> None:
    heart.reserve(ONE, "one", 1, gaussian(4))
    heart.commit(ONE, "one", 1)
    heart.reserve(OTHER, "two", 3, laplace(30))
    assert opened().of("heart").balance() == heart.balance()


def test_what_another_process_writes_is_seen_by_the_next_decision(heart: Ledger, opened: Callable[[], Ledgers]) -> None:
    heart.reserve(ONE, "one", 1, gaussian(100))
    opened().of("heart").propose(Budget(0.1, 1e-5), by="Dr Ada")
    with pytest.raises(BudgetExceeded, match=r"of 0\.10 "):
        heart.reserve(ONE, "two", 1, gaussian(10))


def test_the_ledger_goes_on_under_a_new_key(
    heart: Ledger, folder: SiteFolder, opened: Callable[[], Ledgers], monkeypatch: pytest.MonkeyPatch
) -> None:
    heart.reserve(ONE, "one", 1, gaussian(4))
    monkeypatch.setattr(enrolment, "_is_known", lambda *_: True)
    enrolment.rotate_key(folder, None, SystemClock(), by="Dr Ada")  # type: ignore[arg-type]
    ledgers = opened()
    ledgers.of("heart").reserve(ONE, "two", 1, gaussian(4))
    allow(ledgers.of("lung"), THREE)
    assert [list(opened().problems(name)) for name in opened().names()] == [[], []]
    assert reached(opened().of("heart")) == epsilon([gaussian(4, 2)], 1e-5)


def test_what_was_spent_is_told_without_the_accounting(heart: Ledger, opened: Callable[[], Ledgers], monkeypatch: pytest.MonkeyPatch) -> None:
    heart.reserve(ONE, "one", 1, gaussian(4))
    before = reached(heart)

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name="dp_accounting")

    monkeypatch.setattr(terms.importlib, "import_module", missing)
    assert reached(opened().of("heart")) == before
    with pytest.raises(NotAvailable, match="dp-accounting"):
        opened().of("heart").reserve(ONE, "two", 1, gaussian(4))


# speed


def test_a_decision_over_a_hundred_entries_with_history_cached(opened: Callable[[], Ledgers]) -> None:
    ledger = opened().of("heart")
    allow(ledger, Budget(100, 1e-5))
    for number in range(100):
        ledger.reserve(ONE, str(number), 1, gaussian(60 + number))
    begun = time.process_time()
    ledger.reserve(ONE, "one more", 1, subsampled_gaussian(0.01, 1.1, 100))
    assert time.process_time() - begun < 0.5


def test_two_studies_in_turn_cost_no_composition_of_the_past(opened: Callable[[], Ledgers], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened().of("heart")
    allow(ledger, Budget(100, 1e-5))
    past: list[Spent] = [gaussian(50 + number) for number in range(10)]
    for number, spent in enumerate(past):
        ledger.reserve(ONE, str(number), 1, spent)
    accounting = terms.library()
    made: list[float] = []
    compute = accounting._losses

    def counted(*arguments: object) -> object:
        made.append(1)
        return compute(*arguments)

    in_turn = [(OTHER, gaussian(40)), (ONE, laplace(70))]
    for study, spent in in_turn:
        ledger.reserve(study, "first", 1, spent)
    monkeypatch.setattr(accounting, "_losses", counted)
    for number in range(4):
        study, spent = in_turn[number % 2]
        ledger.reserve(study, f"round {number}", 1, spent)
    assert len(made) <= 4 * 5
    assert reached(ledger) == pytest.approx(epsilon([*past, gaussian(40, 3), laplace(70, 3)], 1e-5), abs=1e-3)
