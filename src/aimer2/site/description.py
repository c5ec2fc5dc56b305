"""What a person at the hospital reads before deciding about a study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.compression import catalogue as compressions
from aimer2.core.clock import rfc3339
from aimer2.core.errors import AimerError, BadStudy
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
        *_titled("Answers here" if study.analyses else "Runs here", runs(package)),
        "",
        *_titled("Leaves the site", leaves(package)),
        "",
        *_code(code or {}),
        f"Digest           {digest}",
    ]


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    return (f"{'' if number else title:17}{line}" for number, line in enumerate(lines))


def _sites_needed(package: Package) -> int:
    """An aggregator that this installation does not have is told below."""
    try:
        return quorum_of(package).needed
    except BadStudy:
        return package.study.sites.minimum


def reads(study: Study) -> Iterator[str]:
    """Which rows and columns, the first line as a heading of the others."""
    cohort = study.cohort
    yield f"data set '{cohort.dataset}', at least {cohort.minimum_patients} patients, only these columns:"
    for feature in study.columns:
        kind = feature.unit or ("number" if feature.kind == "number" else "one of " + ", ".join(feature.categories))
        yield f"{feature.name} ({kind})"
    if cohort.image is not None:
        yield f"{cohort.image.name} (images: {cohort.image.size})"
    if cohort.group is not None:
        yield f"{cohort.group.name} (one of {', '.join(cohort.group.categories)}; groups that are looked at apart)"
    for column in cohort.target.columns:
        yield f"{column.name} (what the model is to tell)"


def runs(package: Package) -> Iterator[str]:
    """Which method with which parameters, or which statistical questions."""
    study = package.study
    if study.analyses:
        yield from _asks(package)
        return
    yield f"{study.method.name}, version {package.method_version}, {study.method.rounds} rounds: {_summary(study.method.name)}"
    for name, value in sorted(study.method.parameters.items()):
        yield f"{name} = {value}"
    yield from _aggregator(study)
    yield f"model {study.model.name or study.model.code} ({study.model.framework})"


def _asks(package: Package) -> Iterator[str]:
    """The locked plan: what is not in it cannot be run."""
    if all(analysis.method == "feasibility" for analysis in package.study.analyses):
        yield "a feasibility question, before a study is written: rounded counts of patients, of all hospitals together"
    yield "only these statistical questions:"
    for analysis in package.study.analyses:
        version = package.versions.get(analysis.method)
        yield f"{analysis.name}: {analysis.formula}"
        yield f"  {analysis.method}, version {version}, at most {analysis.rounds} rounds: {_statistic(analysis.method)}"
        for name, value in sorted(analysis.options.items()):
            yield f"  {name} = {value}"


def _statistic(name: str) -> str:
    return statistics.summary(name) if name in statistics.names() else "this installation does not have it"


def _sums_of(analysis: Analysis) -> Sequence[str]:
    if analysis.method not in statistics.names():
        return (f"unknown: this installation does not have the method '{analysis.method}' and would refuse its tasks",)
    return [f"each round, of {analysis.name}: {line.replace('``', '')}" for line in statistics.leaves(analysis.method)]


def _aggregator(study: Study) -> Iterator[str]:
    name = study.method.aggregator
    if name not in aggregators.names():
        yield f"updates are combined by '{name}', which this installation does not have and cannot tell about"
        return
    yield f"updates are combined by {name}: {aggregators.summary(name)}"
    for parameter, value in sorted(study.method.aggregator_parameters.items()):
        yield f"{parameter} = {value}"
    if study.privacy.group_size is not None:
        yield "for that the coordinator compares the sums of groups of sites, see below with whom this one is added up"
    elif not aggregators.example(name).additive:
        yield "for that the coordinator compares the sites' updates one by one, so it must see this site's alone"


def leaves(package: Package) -> Iterator[str]:
    """Exactly what is sent, who sees it, and how much noise is on it; a line that begins with blanks goes on with the one before."""
    study = package.study
    yield "only these sums over all patients of the cohort, never a record:"
    yield from what_leaves(study)
    yield from _secrecy(package)
    yield from _noise(study)


def what_leaves(study: Study) -> Sequence[str]:
    lines = ["before the first round: whether the data meet the study's contract, as sentences with rounded counts"]
    if study.analyses:
        lines.append(
            "and whether this site's limits (`[disclosure]` in site.toml), or what was answered here before, speak against answering, with the reason"
        )
        return [*lines, *(line for analysis in study.analyses for line in _sums_of(analysis))]
    if study.cohort.common_moments:
        lines.append("before the first round: of each column how many values and their sum")
        lines.append("and then, about the mean that came of it: the sums of the distances and of the squared distances")
    lines += [f"each round: {line.replace('``', '')}" for line in _method(study.method.name)]
    lines += _compressed(study)
    if study.method.largest_change is not None:
        lines.append(f"of that, a mean change of the model longer than {study.method.largest_change:g} is shortened here to this length")
    if study.evaluation.held_out > 0:
        named = f" for {', '.join(study.evaluation.metrics)}" if study.evaluation.metrics else ""
        lines.append(f"each round: counts and sums of the model's evaluation on held-out patients{named}")
    if study.evaluation.release_per_site:
        lines.append("once, at the end: this site's own figures, under its name")
    return lines


def _compressed(study: Study) -> Iterator[str]:
    asked = study.method.compression
    if asked is None:
        return
    if asked.name not in compressions.names():
        yield f"of that, the difference compressed by '{asked.name}', which this installation does not have and would refuse"
        return
    stated = "".join(f", {parameter} = {value}" for parameter, value in sorted(asked.parameters.items()))
    yield f"of that, the difference compressed here by {asked.name}{stated}: {compressions.summary(asked.name)}"
    if compressions.example(asked.name).remembers:
        yield "  what is left out stays here, in the site's memory of the study, and goes along later"


def _method(name: str) -> Sequence[str]:
    try:
        return catalogue.leaves(name)
    except BadStudy:
        return (f"unknown: this installation does not have the method '{name}' and would refuse its tasks",)


def _summary(name: str) -> str:
    try:
        return catalogue.summary(name)
    except BadStudy:
        return "this installation does not have it"


def _secrecy(package: Package) -> Iterator[str]:
    study, sites = package.study, len(package.roster)
    if not study.privacy.secure_aggregation:
        yield "in the clear: the coordinator sees this site's sums. The researcher says why:"
        yield f"  {study.privacy.why_not_secure or 'nothing'}"
        return
    if study.privacy.group_size is None:
        yield f"masked: the coordinator gets the sum of at least {threshold(sites)} of the {sites} sites, and nobody sees this site's alone"
    else:
        yield f"masked: the coordinator gets the sum of each group of {study.privacy.group_size} sites or more, and nobody sees this site's alone;"
        yield "  a group's sum hides a site among fewer others than the sum of all would. The groups, the same in every round:"
        for group in groups_of(package):
            yield f"    {', '.join(group)} (a sum is of at least {max(MINIMUM, threshold(len(group)))} of them)"
    yield "  (secure aggregation; it rests on the keys that people here have verified: `aimer2 site roster show`)"


def _noise(study: Study) -> Iterator[str]:
    asked = study.privacy.differential_privacy
    if asked is None:
        yield "without differential privacy: what is learnt from the sum of all is not limited by noise"
        return
    much = f"ε = {asked.epsilon:g}" if asked.epsilon is not None else f"noise of {asked.noise_multiplier:g} times the clip norm"
    if asked.level == "site":
        yield f"with differential privacy of whole sites: {much} for each site over the whole study. What the worker hands over, whatever"
        yield "  code made it, is shortened to the clip norm and gets this site's share of the noise before it is masked; no number of"
        yield "  patients leaves"
        if study.privacy.of_sites is not None and study.privacy.of_sites.clip_quantile is not None:
            yield "  and, under the same noise, whether it had to shorten: by that the next round's clip norm is chosen"
        yield from _of_a_patient(study)
        return
    yield f"with differential privacy: {much} for each patient over the whole study, taken from the data set's budget (`aimer2 site budget show`)"
    if study.analyses:
        yield "  each patient's part in a sum is shortened to a public length, and the sum gets Gaussian noise here, before it leaves"
    if asked.asserted:
        yield "  on the researcher's word: code of the study computes the gradients, so AIMER2 does not vouch for it"


def _of_a_patient(study: Study) -> Iterator[str]:
    """What the ledger is charged: a patient's rows may turn a site's part round, so that ε is larger for a patient than for a site."""
    try:
        kept = site_terms(study)
        epsilon = kept.epsilon(kept.rounds, evaluations=kept.evaluations, of="patient")
    except AimerError as error:
        yield f"  what that costs this site's patients cannot be told here: {error.sentence}"
        return
    yield f"  for each of this site's patients that is ε = {epsilon:.2f} at δ = {kept.delta:g},"
    yield "  taken from the data set's budget (`aimer2 site budget show`)"


def _code(code: Mapping[str, str]) -> Iterator[str]:
    for name, text in sorted(code.items()):
        yield f"Code brought along: {name}. It runs in the confined worker and sees the cohort's rows."
        yield from (f"  {number:4} | {line}" for number, line in enumerate(text.splitlines(), 1))
        yield ""
