from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.wire import Decision
from aimer2.secure_aggregation.groups import groups
from aimer2.site import approval
from aimer2.site.approval import Approve, Ask, Policy, Refuse, Rule, StudyRequest, decide, stands, valid_until
from aimer2.site.description import describe_request, leaves

NOW = datetime.datetime.now(datetime.UTC).timestamp()
REF = BlobRef(sha256="0" * 64, size=1)
RULE: dict[str, Any] = {"name": "hearts", "set_by": "Dr Ines Vogt", "decision": "approve"}

Make = Callable[..., Study]


def request(study: Study, **changes: Any) -> StudyRequest:
    files = {"model.py": REF} if study.model.code else {}
    package = Package(study=study, method_version=1, initial=REF, roster={"north": "key"}, files=files)
    fields: dict[str, Any] = {"coordinator": "North", "enforced": frozenset({"network", "files"}), "now": NOW}
    return StudyRequest(digest_of(package), package, **(fields | changes))


def verdict(study: Study, *rules: dict[str, Any], **changes: Any) -> approval.Verdict:
    return decide(Policy.model_validate({"rule": [RULE | rule for rule in rules]}), request(study, **changes), [])


def a_decision(decision: str, study: Study, **changes: Any) -> Decision:
    fields = {"study": request(study).digest, "site": "north", "decision": decision, "by": "Dr Grace", "dataset": "heart", "time": NOW}
    return Decision.model_validate(fields | changes)


def test_without_a_rule_a_person_is_asked(a_study: Make) -> None:
    assert isinstance(decide(Policy(), request(a_study()), []), Ask)


def test_a_rule_that_fits_approves_in_the_name_of_who_set_it(a_study: Make) -> None:
    found = verdict(a_study(), {"datasets": ["heart"], "methods": ["fedavg"], "maximum_rounds": 3, "minimum_patients": 10, "maximum_days": 40})
    assert isinstance(found, Approve) and found.rule.set_by == "Dr Ines Vogt"


@pytest.mark.parametrize(
    "condition",
    [
        {"datasets": ["lungs"]},
        {"methods": ["fedprox"]},
        {"coordinators": ["South"]},
        {"principal_investigators": ["Dr Other"]},
        {"maximum_rounds": 2},
        {"minimum_patients": 11},
        {"maximum_days": 1},
        {"secure_aggregation": True},
        {"differential_privacy": True},
        {"require": ["namespace"]},
        {"columns": ["age"]},
    ],
    ids=lambda condition: next(iter(condition)),
)
def test_every_condition_of_a_rule_must_hold(a_study: Make, condition: dict[str, Any]) -> None:
    found = verdict(a_study(), condition)
    assert isinstance(found, Ask) and "hearts" in found.reasons[0]


def a_question(formula: str, method: str = "glm", **fields: Any) -> Study:
    given: dict[str, Any] = {"name": "asked", "question": "How old are they?", "purpose": "test", "ethics": "EK 1"}
    given["principal_investigator"] = "Dr Ada"
    analyses = [{"method": method, "formula": formula, "options": fields.pop("options", {})}]
    return Study(**given, expires=datetime.date(2100, 1, 1), cohort={"dataset": "heart"}, analyses=analyses, **fields)


def test_a_rule_approves_a_class_of_questions_and_no_other_column_or_method() -> None:
    rule = {"methods": ["glm", "describe"], "columns": ["age", "ill", "bmi"], "datasets": ["heart"]}
    assert isinstance(verdict(a_question("ill ~ age + log(bmi)"), rule), Approve)
    for other, why in (
        (a_question("ill ~ age + hiv"), "it reads hiv"),
        (a_question("ill ~ age + strata(hiv)"), "it reads hiv"),
        (a_question("Surv(age, ill) ~ bmi", "cox"), "the method is cox"),
        (a_question("ill ~ age + offset(hiv)"), "it reads hiv"),
    ):
        found = verdict(other, rule)
        assert isinstance(found, Ask) and why in found.reasons[0]


def test_a_rule_refuses_what_reads_one_of_its_columns(a_study: Make) -> None:
    rule = {"decision": "refuse", "columns": ["hiv"]}
    assert isinstance(verdict(a_question("ill ~ age + hiv"), rule), Refuse)
    assert isinstance(verdict(a_question("ill ~ age"), rule), Ask)
    assert isinstance(verdict(a_study(), rule), Ask)


def test_a_person_reads_every_question_and_every_sum_before_deciding() -> None:
    asked = a_question("Surv(days, died) ~ age + C(sex, 'f', 'm')", "cox", options={"ties": "breslow"})
    package = Package(study=asked, method_version=1, versions={"cox": 1}, initial=REF, roster={"north": "key"})
    text = "\n".join(describe_request(package, digest_of(package)))
    for told in ("Answers here", "Surv(days, died) ~ age + C(sex", "cox, version 1", "ties = breslow", "sex (one of f, m)", "days (number)"):
        assert told in text
    for told in ("likelihood = with sites as strata", "this site's limits", "masked: "):
        assert told in text
    assert "fedavg" not in text and "model" not in text and "Runs here" not in text


def test_what_leaves_under_differential_privacy_is_told_as_it_is(a_study: Make, package: Package) -> None:
    """What `tests/privacy/test_private_study.py` finds to leave: neither the number of patients nor a figure of a round."""
    private = {"differential_privacy": {"epsilon": 3.0, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.1}}
    study = a_study(model={"framework": "torch", "name": "logistic"}, privacy=private, evaluation={"metrics": ["auc"], "held_out": 0.2})
    told = [str(line) for line in leaves(package.model_copy(update={"study": study}))]
    assert "once, of the last model: counts and sums of its evaluation on held-out patients for auc, with noise" in told
    assert (
        f"n, the number of training rows, is told as {study.cohort.minimum_patients}, the least that the study asks for, whatever it is here" in told
    )
    assert not [line for line in told if line.startswith("each round: counts")]
    in_the_clear = [str(line) for line in leaves(package)]
    assert [line for line in in_the_clear if line.startswith("each round: counts")] and not [line for line in in_the_clear if "is told as" in line]


def test_code_and_release_are_only_approved_where_a_rule_says_so(a_study: Make) -> None:
    code = a_study(model={"framework": "numpy", "code": "model.py"})
    release = a_study(evaluation={"release_per_site": True})
    assert isinstance(verdict(code, {}), Ask) and isinstance(verdict(release, {}), Ask)
    assert isinstance(verdict(code, {"allow_code": True}), Approve)
    assert isinstance(verdict(release, {"allow_release_per_site": True}), Approve)


def test_a_refusing_rule_comes_before_every_approving_one(a_study: Make) -> None:
    assert isinstance(verdict(a_study(), {}, {"decision": "refuse", "methods": ["fedavg"]}), Refuse)
    assert isinstance(verdict(a_study(), {}, {"decision": "refuse", "methods": ["fedprox"]}), Approve)


@pytest.mark.parametrize("said", ["approve", "refuse", "withdraw"])
def test_no_rule_overrules_what_was_decided_before(a_study: Make, said: str) -> None:
    history = [a_decision(said, a_study())]
    assert isinstance(decide(Policy.model_validate({"rule": [RULE]}), request(a_study()), history), Ask)


def test_no_rule_approves_secure_aggregation_over_keys_that_nobody_verified(a_study: Make) -> None:
    secure = a_study(privacy={"secure_aggregation": True})
    found = verdict(secure, {"secure_aggregation": True}, unverified=("east", "west"))
    assert isinstance(found, Ask) and "the keys of east, west" in found.reasons[0]
    assert isinstance(verdict(secure, {"secure_aggregation": True}), Approve)
    assert isinstance(verdict(a_study(), {}, unverified=("east", "west")), Approve), "without it nothing rests on these keys"
    assert isinstance(verdict(secure, {"decision": "refuse"}, unverified=("east",)), Refuse)


def test_a_member_is_unverified_unless_this_very_key_was_verified() -> None:
    verified = {"east": "key 1", "west": "key 2", "elsewhere": "key 3"}
    assert approval.unverified({"east": "key 1", "west": "key 2"}, verified) == ()
    assert approval.unverified({"west": "key 1", "south": "key 3", "east": "key 1"}, verified) == ("south", "west")


@given(st.sets(st.sampled_from(["datasets", "methods", "coordinators"])), st.integers(1, 6), st.integers(1, 60))
def test_a_stricter_rule_never_approves_more(narrowed: set[str], rounds: int, days: int) -> None:
    study = Study(**_fields())
    loose = Rule.model_validate(RULE)
    strict = Rule.model_validate(RULE | {"maximum_rounds": rounds, "maximum_days": days} | {name: ["heart"] for name in narrowed})
    if isinstance(decide(Policy(rule=(strict,)), request(study), []), Approve):
        assert isinstance(decide(Policy(rule=(loose,)), request(study), []), Approve)
        assert rounds >= 3 and narrowed <= {"datasets"}


def _fields() -> dict[str, Any]:
    return {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "test",
        "ethics": "none",
        "principal_investigator": "Dr Ada Test",
        "expires": datetime.datetime.fromtimestamp(NOW, datetime.UTC) + datetime.timedelta(days=30),
        "cohort": {"dataset": "heart", "features": [{"name": "age"}], "target": {"name": "disease"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "method": {"rounds": 3},
    }


def test_an_approval_ends_with_the_study_or_sooner_and_withdrawal_ends_it_at_once(a_study: Make) -> None:
    package = request(a_study()).package
    assert stands(None, package, NOW) is not None
    assert stands(a_decision("approve", a_study()), package, NOW) is None
    assert stands(a_decision("approve", a_study(), until=NOW + 9), package, NOW + 9) is not None
    assert valid_until(a_decision("approve", a_study(), until=NOW * 2), package) == package.study.expires_at
    assert stands(a_decision("approve", a_study()), package, package.study.expires_at) is not None
    for said in ("refuse", "withdraw"):
        assert stands(a_decision(said, a_study()), package, NOW) is not None


def test_the_example_in_the_page_is_a_policy() -> None:
    example = "\n".join(line for line in (approval.__doc__ or "").splitlines() if line.startswith("    "))
    assert Policy.model_validate(tomllib.loads(example)).rule[0].datasets == ("heart",)


GROUPED: dict[str, Any] = {"privacy": {"group_size": 3}, "method": {"rounds": 3, "aggregator": "median"}}


def test_no_rule_approves_sums_of_smaller_groups_than_it_names(a_study: Make) -> None:
    grouped = a_study(**GROUPED)
    assert "groups of 3 sites" in str(verdict(grouped, {"secure_aggregation": True}))
    assert "groups of 3 sites" in str(verdict(grouped, {"minimum_group": 4}))
    assert isinstance(verdict(grouped, {"minimum_group": 3}), Approve)


def test_a_person_reads_with_whom_the_site_is_added_up(a_study: Make) -> None:
    asked = request(a_study(**GROUPED))
    package = asked.package.model_copy(update={"roster": dict.fromkeys("abcdefghi", next(iter(asked.package.roster.values())))})
    lines = [line.strip() for line in describe_request(package, asked.digest)]
    for group in groups("abcdefghi", 3, package.study.seed):
        assert f"{', '.join(group)} (a sum is of at least 3 of them)" in lines
    text = "\n".join(lines)
    assert "the sum of each group of 3 sites or more" in text and "fewer others than the sum of all" in text
    assert "it must see this site's alone" not in text


def test_a_person_reads_everything_before_deciding(a_study: Make) -> None:
    study = a_study(model={"framework": "numpy", "code": "model.py"}, evaluation={"release_per_site": True})
    asked = request(study)
    text = "\n".join(describe_request(asked.package, asked.digest, {"model.py": "import this\nbuild = 1"}))
    for part in (study.question, study.purpose, study.ethics, "Dr Ada Test", "chol", "difference = n", "under its name", "import this", "build = 1"):
        assert part in text
    assert text.endswith(asked.digest)
