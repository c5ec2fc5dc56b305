"""What a person at the hospital reads before deciding about a study: sentences of ours with the study's own words in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.compression import catalogue as compressions
from aimer2.core.clock import rfc3339
from aimer2.core.errors import AimerError, BadStudy
from aimer2.core.said import Said, say
from aimer2.core.study import Analysis, Study
from aimer2.messages.package import Package
from aimer2.privacy.site_terms import site_terms
from aimer2.secure_aggregation.roster import MINIMUM, threshold
from aimer2.statistics import catalogue as statistics
from aimer2.study.secure_update import groups_of, quorum_of


def describe_request(package: Package, digest: str, code: Mapping[str, str] | None = None) -> list[str]:
    """Question, who asks, what is read here, exactly what leaves, code in full, expiry, digest; ``code``: texts of the package's files."""
    study = package.study
    return [
        f"Study            {study.name}",
        f"Question         {study.question}",
        f"Asked by         {study.principal_investigator}",
        f"Purpose          {study.purpose}",
        f"Ethics           {study.ethics}",
        f"Expires          {rfc3339(study.expires_at)}",
        f"Sites asked      {', '.join(sorted(package.roster))} (at least {_sites_needed(package)} take part)",
        "",
        *_titled("Reads here", reads(study)),
        "",
        *_titled("Answers here" if study.analyses else "Measures here" if study.evaluates is not None else "Runs here", runs(package)),
        "",
        *_titled("Leaves the site", leaves(package)),
        "",
        *_code(code or {}),
        f"Digest           {digest}",
    ]


def described(package: Package) -> Mapping[str, Sequence[Said]]:
    """What is read, what runs and what leaves, to be told in the reader's language."""
    return {"reads": tuple(reads(package.study)), "runs": tuple(runs(package)), "leaves": tuple(leaves(package))}


def _titled(title: str, lines: Iterable[Said]) -> Iterator[str]:
    return (f"{'' if number else title:17}{'  ' * line.depth}{line}" for number, line in enumerate(lines))


def _sites_needed(package: Package) -> int:
    """An aggregator that this installation does not have is told below."""
    try:
        return quorum_of(package).needed
    except BadStudy:
        return package.study.sites.minimum


def reads(study: Study) -> Iterator[Said]:
    """Which rows and columns, the first line as a heading of the others."""
    cohort = study.cohort
    yield say("data set '{name}', at least {count} patients, only these columns:", name=cohort.dataset, count=cohort.minimum_patients)
    for feature in study.columns:
        if feature.unit:
            yield Said("{name} ({unit})", {"name": feature.name, "unit": feature.unit})
        elif feature.kind == "number":
            yield say("{name} (number)", name=feature.name)
        else:
            yield say("{name} (one of {categories})", name=feature.name, categories=", ".join(feature.categories))
    if cohort.image is not None:
        yield say("{name} (images: {size})", name=cohort.image.name, size=cohort.image.size)
    if cohort.group is not None:
        categories = ", ".join(cohort.group.categories)
        yield say("{name} (one of {categories}; groups that are looked at apart)", name=cohort.group.name, categories=categories)
    for column in cohort.target.columns:
        yield say("{name} (what the model is to tell)", name=column.name)


def runs(package: Package) -> Iterator[Said]:
    """Which method with which parameters, or which statistical questions."""
    study = package.study
    if study.analyses:
        yield from _asks(package)
        return
    if study.evaluates is not None:
        yield from _measures(package)
        return
    method = study.method
    yield say(
        "{method}, version {version}, {count} rounds: {summary}",
        method=method.name,
        version=package.method_version,
        count=method.rounds,
        summary=_summary(method.name),
    )
    yield from _parameters(method.parameters)
    yield from _aggregator(study)
    yield say("model {name} ({framework})", name=study.model.name or study.model.code, framework=study.model.framework)


def _parameters(parameters: Mapping[str, object], depth: int = 0) -> Iterator[Said]:
    """A study's own words, the same in every language."""
    return (Said("{name} = {value}", {"name": name, "value": value}, depth) for name, value in sorted(parameters.items()))


def _measures(package: Package) -> Iterator[Said]:
    study = package.study
    yield say("an evaluation: a model that is there is measured on this site's patients; nothing is trained, and the model does not change")
    yield say("of the study {study}, whose model has the weights with SHA-256 {sha256}", study=study.evaluates, sha256=package.initial.sha256)
    yield say("model {name} ({framework})", name=study.model.name or study.model.code, framework=study.model.framework)
    if study.evaluation.held_out == 1:
        yield say("measured on all patients of the data set")
    else:
        share = f"{study.evaluation.held_out:.0%}"
        yield say("measured on {share} of the patients: those whom every study of the data set holds out", share=share)


def _asks(package: Package) -> Iterator[Said]:
    """The locked plan: what is not in it cannot be run."""
    if all(analysis.method == "feasibility" for analysis in package.study.analyses):
        yield say("a feasibility question, before a study is written: rounded counts of patients, of all hospitals together")
    yield say("only these statistical questions:")
    for analysis in package.study.analyses:
        yield Said("{name}: {formula}", {"name": analysis.name, "formula": analysis.formula})
        yield Said(
            _QUESTION.message,
            {
                "method": analysis.method,
                "version": package.versions.get(analysis.method),
                "count": analysis.rounds,
                "summary": _statistic(analysis.method),
            },
            1,
        )
        yield from _parameters(analysis.options, 1)


_QUESTION = say("{method}, version {version}, at most {count} rounds: {summary}")
_NOT_HERE = say("this installation does not have it")


def _statistic(name: str) -> Said:
    return Said(statistics.summary(name)) if name in statistics.names() else _NOT_HERE


def _sums_of(analysis: Analysis) -> Iterator[Said]:
    if analysis.method not in statistics.names():
        yield say("unknown: this installation does not have the method '{name}' and would refuse its tasks", name=analysis.method)
        return
    for line in statistics.leaves(analysis.method):
        yield say("each round, of {name}: {sum}", name=analysis.name, sum=_sum(line))


def _sum(line: str) -> Said:
    """A line of a method's page about what leaves, as plain text."""
    return Said(line.replace("``", ""))


def _aggregator(study: Study) -> Iterator[Said]:
    name = study.method.aggregator
    if name not in aggregators.names():
        yield say("updates are combined by '{name}', which this installation does not have and cannot tell about", name=name)
        return
    yield say("updates are combined by {name}: {summary}", name=name, summary=Said(aggregators.summary(name)))
    yield from _parameters(study.method.aggregator_parameters)
    if study.privacy.group_size is not None:
        yield say("for that the coordinator compares the sums of groups of sites, see below with whom this one is added up")
    elif not aggregators.example(name).additive:
        yield say("for that the coordinator compares the sites' updates one by one, so it must see this site's alone")


def leaves(package: Package) -> Iterator[Said]:
    """Exactly what is sent, who sees it, and how much noise is on it."""
    study = package.study
    yield say("only these sums over all patients of the cohort, never a record:")
    yield from what_leaves(study)
    yield from _secrecy(package)
    yield from _noise(study)


def what_leaves(study: Study) -> Iterator[Said]:
    """The sums alone."""
    yield say("before the first round: whether the data meet the study's contract, as sentences with rounded counts")
    if study.analyses:
        yield say(
            "and whether this site's limits (`[disclosure]` in site.toml), or what was answered here before, speak against answering, with the reason"
        )
        for analysis in study.analyses:
            yield from _sums_of(analysis)
        return
    if study.evaluates is not None:
        if study.evaluation.metrics:
            yield say("once: counts and sums of the model's evaluation for {metrics}", metrics=", ".join(study.evaluation.metrics))
        else:
            yield say("once: counts and sums of the model's evaluation")
        yield say("the figures over all sites are shown with the model, to everybody who may see it at the coordinator")
        yield from _released(study)
        return
    if study.cohort.common_moments:
        yield say("before the first round: of each column how many values and their sum")
        yield say("and then, about the mean that came of it: the sums of the distances and of the squared distances")
    yield from _method(study.method.name)
    yield from _compressed(study)
    if study.method.largest_change is not None:
        length = f"{study.method.largest_change:g}"
        yield say("of that, a mean change of the model longer than {length} is shortened here to this length", length=length)
    if study.evaluation.held_out > 0:
        yield _evaluation(study)
    yield from _released(study)


def _evaluation(study: Study) -> Said:
    metrics = ", ".join(study.evaluation.metrics)
    if study.privacy.differential_privacy is not None:
        if not metrics:
            return say("once, of the last model: counts and sums of its evaluation on held-out patients, with noise")
        return say("once, of the last model: counts and sums of its evaluation on held-out patients for {metrics}, with noise", metrics=metrics)
    if not metrics:
        return say("each round: counts and sums of the model's evaluation on held-out patients")
    return say("each round: counts and sums of the model's evaluation on held-out patients for {metrics}", metrics=metrics)


def _released(study: Study) -> Iterator[Said]:
    if study.evaluation.release_per_site:
        yield say("once, at the end: this site's own figures, under its name")


def _compressed(study: Study) -> Iterator[Said]:
    asked = study.method.compression
    if asked is None:
        return
    if asked.name not in compressions.names():
        yield say("of that, the difference compressed by '{name}', which this installation does not have and would refuse", name=asked.name)
        return
    stated = asked.name + "".join(f", {parameter} = {value}" for parameter, value in sorted(asked.parameters.items()))
    yield say("of that, the difference compressed here by {name}: {summary}", name=stated, summary=Said(compressions.summary(asked.name)))
    if compressions.example(asked.name).remembers:
        yield say("what is left out stays here, in the site's memory of the study, and goes along later", 1)


def _method(name: str) -> Iterator[Said]:
    try:
        for line in catalogue.leaves(name):
            yield say("each round: {sum}", sum=_sum(line))
    except BadStudy:
        yield say("unknown: this installation does not have the method '{name}' and would refuse its tasks", name=name)


def _summary(name: str) -> Said:
    try:
        return Said(catalogue.summary(name))
    except BadStudy:
        return _NOT_HERE


def _secrecy(package: Package) -> Iterator[Said]:
    study, sites = package.study, len(package.roster)
    if not study.privacy.secure_aggregation:
        yield say("in the clear: the coordinator sees this site's sums. The researcher says why:")
        yield Said("{why}", {"why": study.privacy.why_not_secure or "nothing"}, 1)
        return
    if study.privacy.group_size is None:
        least = threshold(sites)
        yield say(
            "masked: the coordinator gets the sum of at least {least} of the {sites} sites, and nobody sees this site's alone",
            least=least,
            sites=sites,
        )
    else:
        size = study.privacy.group_size
        yield say("masked: the coordinator gets the sum of each group of {size} sites or more, and nobody sees this site's alone;", size=size)
        yield say("a group's sum hides a site among fewer others than the sum of all would. The groups, the same in every round:", 1)
        for group in groups_of(package):
            yield say("{sites} (a sum is of at least {least} of them)", 2, sites=", ".join(group), least=max(MINIMUM, threshold(len(group))))
    yield say("(secure aggregation; it rests on the keys that people here have verified: `aimer2 site roster show`)", 1)


def _noise(study: Study) -> Iterator[Said]:
    asked = study.privacy.differential_privacy
    if asked is None:
        yield say("without differential privacy: what is learnt from the sum of all is not limited by noise")
        return
    much = (
        Said("ε = {epsilon}", {"epsilon": f"{asked.epsilon:g}"})
        if asked.epsilon is not None
        else say("noise of {times} times the clip norm", times=f"{asked.noise_multiplier:g}")
    )
    if asked.level == "site":
        yield say(
            "with differential privacy of whole sites: {much} for each site over the whole study. What the worker hands over, whatever", much=much
        )
        yield say("code made it, is shortened to the clip norm and gets this site's share of the noise before it is masked; no number of", 1)
        yield say("patients leaves", 1)
        if study.privacy.of_sites is not None and study.privacy.of_sites.clip_quantile is not None:
            yield say("and, under the same noise, whether it had to shorten: by that the next round's clip norm is chosen", 1)
        yield from _of_a_patient(study)
    else:
        yield say(
            "with differential privacy: {much} for each patient over the whole study, taken from the data set's budget (`aimer2 site budget show`)",
            much=much,
        )
        if study.analyses:
            yield say("each patient's part in a sum is shortened to a public length, and the sum gets Gaussian noise here, before it leaves", 1)
        elif study.model.framework == "torch":
            yield say(
                "each patient's gradient is shortened to the clip norm, and their sum gets Gaussian noise here, in every step of the training;", 1
            )
            count = study.cohort.minimum_patients
            yield say("n, the number of training rows, is told as {count}, the least that the study asks for, whatever it is here", 1, count=count)
        if asked.asserted:
            yield say("on the researcher's word: code of the study computes the gradients, so AIMER2 does not vouch for it", 1)
    yield say(
        "from time to time, signed: how many tasks of this study were charged here, and the ε and δ of these together (`tell_spending` keeps it here)"
    )


def _of_a_patient(study: Study) -> Iterator[Said]:
    """What the ledger is charged: a patient's rows may turn a site's part round, so that ε is larger for a patient than for a site."""
    try:
        kept = site_terms(study)
        epsilon = kept.epsilon(kept.rounds, evaluations=kept.evaluations, of="patient")
    except AimerError as error:
        yield say("what that costs this site's patients cannot be told here: {why}", 1, why=error.sentence)
        return
    yield say("for each of this site's patients that is ε = {epsilon} at δ = {delta},", 1, epsilon=f"{epsilon:.2f}", delta=f"{kept.delta:g}")
    yield say("taken from the data set's budget (`aimer2 site budget show`)", 1)


def _code(code: Mapping[str, str]) -> Iterator[str]:
    for name, text in sorted(code.items()):
        yield f"Code brought along: {name}. It runs in the confined worker and sees the cohort's rows."
        yield from (f"  {number:4} | {line}" for number, line in enumerate(text.splitlines(), 1))
        yield ""
