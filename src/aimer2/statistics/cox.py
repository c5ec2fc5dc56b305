"""Cox regression: how columns multiply the hazard of an event, equal to the pooled fit.

D. R. Cox, JRSS B 34 (1972); ties by B. Efron, JASA 72 (1977), or N. Breslow, Biometrics 30 (1974). ``Surv(time, event) ~ age + C(sex)``,
``Surv(entry, time, event)`` for who came under observation later, ``strata(arm)`` for groups with hazards of their own. With hospitals as strata
(``sites = "strata"``) each has a baseline hazard of its own and sends the derivatives of its own partial likelihood; no time leaves it. Pooled
(``sites = "pooled"``) all have one baseline: sums over who is at risk are added at times common to all, the ends of the intervals ``edges``; where
every time of an event is an edge, as every day is, the answer is the exact one. Newton steps, halved where the likelihood falls, until the next one
would change it by less than 1e-18.

Errors are the model's, or a sandwich of score residuals over rows, patients or sites; whether hazards are proportional is tested by the score of a
term that changes with time (both: `aimer2.statistics.hazards`). For errors that are robust where sites are pooled, sites are told the hazard and the
columns' means at each time with an event. Concordance is Harrell's, of pairs of patients within a site and stratum.

Leaves the site: ``size`` = rows, patients, events; ``moments`` = number of rows and per column sums of values and squares; ``deaths`` = where sites
are pooled, per stratum and time how many have the event; ``risk`` = per stratum and time with an event, sums over who is at risk of risks and of
their products with columns and pairs of columns; ``tied`` = the same over who has the event then; ``observed`` = columns summed over who has the
event; ``likelihood`` = with sites as strata, the site's own partial likelihood; ``score`` = its derivative; ``information`` = its second one;
``late`` = for the test of proportional hazards, columns of who has the event times a function of the time, summed (with sites as strata less the
mean among those at risk); ``spreads`` = with sites as strata, its second derivatives; ``meat`` = for robust errors, the sum of squared parts of the
score; ``pairs`` = for the concordance, how many pairs of patients are comparable and concordant, and sums of squares and products of these over
patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadUpdate
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.metrics.survival import compared
from aimer2.statistics import at_risk as counting
from aimer2.statistics import distributions
from aimer2.statistics.design import Design, Floats, design, groups, numbers, too_few
from aimer2.statistics.estimates import Errors, Fit, Scale, coefficients, independent, inverse, meat
from aimer2.statistics.hazards import Clock, baseline, concordance, late, of_everybody, of_times, proportionality, residuals
from aimer2.statistics.risk_sets import Integers, Observed, Partial, Sets, Ties, partial, risk_sums
from aimer2.statistics.statistic import AbstractStatistic, Values

CONVERGED = 1e-18
_SEPARATED = 1e6

Kept = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@final
@dataclass(frozen=True, kw_only=True)
class Cox(AbstractStatistic):
    """``edges``: of ``sites = "pooled"``, above 0 and rising. ``ridge``: a penalty of half of it times the sum of squared coefficients."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"likelihood", "score", "information", "late", "spreads", "meat", "pairs"})
    crosses: ClassVar[bool] = True

    ties: Ties = "efron"
    sites: Literal["strata", "pooled"] = "strata"
    edges: tuple[float, ...] = ()
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    errors: Errors = "model"
    proportionality: Clock = "none"
    concordance: bool = False

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if not formula.survival:
            yield "cox has a time to an event: write 'Surv(time, event) ~ …'"
        if formula.offset or formula.weights or formula.cluster:
            yield "cox knows neither offset(), weights() nor cluster()"
        if (self.sites == "pooled") != bool(self.edges):
            yield "`edges` are the common times at which sites are pooled: state them with sites = pooled, and leave them out otherwise"
        yield from counting.faults(self.edges)
        if self.sites == "strata" and self.proportionality == "km":
            yield "with sites as strata nobody knows the survival of all: `proportionality` is identity or log"
        kinds = {feature.name: feature for feature in self.features}
        yield from (f"strata({one}) is no category" for one in formula.strata if kinds[one.name].kind != "category")
        if any(one.name in kinds and kinds[one.name].kind == "category" and len(kinds[one.name].categories) != 2 for one in formula.response):
            yield "the event is 0 or 1, or one of two categories, the second being the event"
        if not formula.terms:
            yield "there is no term to estimate"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        _, time, event = self._times(rows)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure)
        if disclosure.is_small(rows.counted(event)):
            yield f"fewer than {disclosure.minimum_cell} patients have the event"
        if self.sites == "pooled" and not disclosure.allows_exact_values(secure=secure):
            cell, _ = groups(self.parsed.strata, self.features, rows)
            yield from counting.against(rows, cell, (time, event.astype(np.int64)), self.edges, disclosure)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        matrix = self._design.matrix(rows)
        stratum, named = groups(self.parsed.strata, self.features, rows)
        if round_number == 1:
            return self._first(rows, matrix, stratum, len(named))
        scaled, beta = self._scale(values).apply(matrix), values["beta"]
        if "closing" in values:
            return self._closing(values, rows, scaled, stratum)
        if self.sites == "strata":
            return self._stratified(scaled, beta, rows, stratum, len(named))
        kept = values["times"].astype(np.int64)
        observed = self._common(rows, stratum).at(kept)
        made = dict(risk_sums(scaled, beta, observed, len(named), len(kept)))
        if "clock" in values:
            made["late"] = values["clock"][observed.last[observed.event]] @ scaled[observed.event]
        return made

    def _stratified(self, scaled: Floats, beta: Floats, rows: Frame, stratum: Integers, strata: int) -> Values:
        """What a site with a hazard of its own sends."""
        observed, times = self._own(rows, stratum)
        sums = risk_sums(scaled, beta, observed, strata, len(times))
        found = partial(sums, beta, self.ties)
        made = {"likelihood": np.array([found.likelihood]), "score": found.score, "information": found.information}
        sets = Sets.of(sums, len(beta), self.ties)
        if self.proportionality != "none":
            clock = of_times(self.proportionality, times)
            expected, made["spreads"] = late(sets, np.tile(clock, strata))
            made["late"] = clock[observed.last[observed.event]] @ scaled[observed.event] - expected
        if self.errors != "model":
            made["meat"] = meat(residuals(scaled, beta, observed, baseline(sets, strata)), self.errors, rows.patients)
        return made

    def _closing(self, values: Values, rows: Frame, scaled: Floats, stratum: Integers) -> Values:
        """What needs the fitted coefficients, and where sites are pooled the hazard of all."""
        made: dict[str, Floats] = {}
        if "baseline" in values:
            observed = self._common(rows, stratum).at(values["times"].astype(np.int64))
            made["meat"] = meat(residuals(scaled, values["beta"], observed, values["baseline"]), self.errors, rows.patients)
        if self.concordance:
            entry, time, event = self._times(rows)
            risk = scaled @ values["beta"]
            apart = [stratum == one for one in np.unique(stratum)]
            made["pairs"] = sum((compared(risk[own], time[own], event[own], entry[own]) for own in apart), np.zeros(5))
        return made

    def _first(self, rows: Frame, matrix: Floats, stratum: Integers, strata: int) -> Values:
        _, _, event = self._times(rows)
        counted = np.full(matrix.shape[1], float(len(rows)))
        made = {
            "size": np.array([len(rows), rows.counted(), event.sum()], np.float64),
            "moments": np.array([counted, matrix.sum(axis=0), (matrix**2).sum(axis=0)]),
        }
        if self.sites == "pooled":
            made["deaths"] = self._common(rows, stratum).deaths(strata, len(self.edges))
        return made

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return self._begun(total), False
        if "closing" in values:
            return {**values, **total}, True
        beta = values["beta"]
        penalty = self.ridge / values["spread"] ** 2
        found = self._partial(total, beta)
        objective = found.likelihood - float(beta @ (penalty * beta)) / 2
        if round_number > 2 and objective < values["objective"][0] - 1e-8 * (abs(values["objective"][0]) + 1e-30):
            return {**values, "beta": (beta + values["before"]) / 2}, False
        kept = independent(found.information) if round_number == 2 else values["kept"] > 0
        cover = inverse(found.information + np.diag(penalty), kept)
        score = found.score - penalty * beta
        move = cover @ score
        decrement = float(score @ move)
        moved = {
            **values,
            "before": beta,
            "beta": beta + move,
            "kept": kept.astype(np.float64),
            "objective": np.array([objective]),
            "information": found.information,
            "likelihood": np.array([found.likelihood]),
            "converged": np.array([float(decrement <= CONVERGED)]),
        }
        if round_number == 2:
            moved |= {"null": np.array([found.likelihood, decrement]), "first": np.diag(cover).copy()}
        separated = (np.diag(cover) > _SEPARATED * np.maximum(moved["first"], np.finfo(np.float64).tiny)).any()
        if "meat" in total:
            moved["meat"] = total["meat"]
        if self.proportionality != "none":
            moved |= self._late(values, total, beta)
        if not (decrement <= CONVERGED or separated) or (self.proportionality != "none" and "late" not in moved):
            return moved, False
        if self.concordance or self._is_robust_pooled:
            return moved | self._opened(total, beta), False
        return moved, True

    def _late(self, values: Values, total: Values, beta: Floats) -> dict[str, Floats]:
        """For the test of proportional hazards: at first the clock, then its score and information at these coefficients."""
        if self.sites == "strata":
            return {"late": total["late"], "spreads": total["spreads"]}
        if "late" not in total:
            # all risks are 1 at the first step, so their sums are numbers of patients
            times, deaths, at_risk = np.array(self.edges)[values["times"].astype(np.int64)], total["deaths"].sum(axis=0), total["risk"][..., 0]
            return {"clock": of_everybody(self.proportionality, times, deaths, at_risk.sum(axis=0))}
        clock = np.tile(values["clock"], len(total["deaths"]))
        expected, spreads = late(Sets.of(total, len(beta), self.ties), clock)
        return {"late": total["late"] - expected, "spreads": spreads}

    def _opened(self, total: Values, beta: Floats) -> dict[str, Floats]:
        """For one more round, at the fitted coefficients."""
        opened = {"closing": np.ones(1)}
        if self._is_robust_pooled:
            opened["baseline"] = baseline(Sets.of(total, len(beta), self.ties), len(total["deaths"]))
        return opened

    @property
    def _is_robust_pooled(self) -> bool:
        return self.sites == "pooled" and self.errors != "model"

    def _begun(self, total: Values) -> Values:
        if not total["size"][2] > 0:
            raise BadUpdate("Nobody has had the event, so nothing follows.")
        counted, sums, squares = total["moments"]
        scale = Scale.of(float(counted[0]), sums, squares, has_intercept=False, centred=True)
        beta = np.zeros(len(self._design.columns))
        begun = {"size": total["size"], "beta": beta, "before": beta, "centre": scale.centre, "spread": scale.spread}
        if self.sites == "pooled":
            begun["times"] = np.flatnonzero(total["deaths"].sum(axis=0) > 0).astype(np.float64)
        return begun

    def _partial(self, total: Values, beta: Floats) -> Partial:
        if self.sites == "strata":
            return Partial(float(total["likelihood"][0]), total["score"], total["information"])
        if (total["risk"][..., 0][total["deaths"] > 0] <= 0).any():
            raise BadUpdate("There are events at a time at which nobody is at risk.")
        return partial(total, beta, self.ties)

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("beta", "centre", "spread", "times", "clock", "closing", "baseline") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        kept, back = values["kept"] > 0, self._scale(values).back
        cover = inverse(values["information"] + np.diag(self.ridge / values["spread"] ** 2), kept)
        covariance = self._covariance(values, cover)
        fit = Fit(
            names=self._design.names,
            estimates=back @ np.where(kept, values["beta"], 0.0),
            covariance=back @ covariance @ back.T,
            aliased=~kept,
            freedom=None,
            level=self.level,
            ratio="hazard_ratio",
        )
        notes = list(self._notes(values, kept, cover))
        made = [coefficients(fit, analysis=name, method=self.name, facts=self._facts(values, kept, covariance), notes=notes)]
        if "late" in values:
            lines = proportionality(values["late"], values["spreads"], values["information"], kept, self._design.columns)
            columns, told = ("term", "statistic", "freedom", "p"), {"function_of_time": self.proportionality}
            note = "A small p: the effect changes with time."
            made.append(
                Table(analysis=name, method=self.name, title="Proportional hazards", columns=columns, rows=tuple(lines), facts=told, notes=(note,))
            )
        return made

    def _covariance(self, values: Values, cover: Floats) -> Floats:
        """Of the scaled columns' coefficients; not a number where a fit that has not converged has no sandwich."""
        if self.errors != "model":
            return cover @ values["meat"] @ cover if "meat" in values else np.full_like(cover, np.nan)
        return cover @ values["information"] @ cover if self.ridge else cover

    def _facts(self, values: Values, kept: Kept, covariance: Floats) -> dict[str, Cell]:
        parameters = int(kept.sum())
        rows, patients, events = (int(value) for value in values["size"])
        likelihood, (null, score) = float(values["likelihood"][0]), values["null"]
        ratio = 2 * (likelihood - float(null))
        facts: dict[str, Cell] = {
            "ties": self.ties,
            "sites": self.sites,
            "errors": self.errors,
            "rows": rows,
            "patients": patients,
            "events": events,
            "parameters": parameters,
            "log_likelihood": likelihood,
            "null_log_likelihood": float(null),
            "aic": 2 * parameters - 2 * likelihood,
        }
        if not self.ridge and parameters:
            for name, chi in (("likelihood_ratio", ratio), ("score_test", float(score))):
                facts |= {f"{name}_chi2": chi, f"{name}_p": float(distributions.chi_squared_above(chi, parameters))}
            beta = np.where(kept, values["beta"], 0.0)
            wald = float(beta @ inverse(covariance, kept) @ beta) if np.isfinite(covariance).all() else float("nan")
            facts |= {"wald_chi2": number(wald), "wald_p": number(float(distributions.chi_squared_above(wald, parameters)))}
        return facts | (concordance(values["pairs"]) if "pairs" in values else {})

    def _notes(self, values: Values, kept: Kept, cover: Floats) -> Iterator[str]:
        names = np.array(self._design.names)
        if not kept.all():
            yield f"these follow from the terms before them (collinear, or nobody has the category) and have no estimate: {', '.join(names[~kept])}"
        apart = kept & (np.diag(cover) > 1e4 * np.maximum(values["first"], np.finfo(np.float64).tiny))
        if apart.any():
            yield f"monotone likelihood: the event follows from {', '.join(names[apart])}, so no finite estimate exists; a ridge penalty gives one"
        if not values["converged"][0]:
            yield f"it has not converged in {self.rounds} rounds: do not use these estimates"
        if self.ridge:
            yield f"penalised by {self.ridge:g}/2 times the sum of squared coefficients: estimates are drawn towards 0, and intervals lie about these"
        if self.concordance:
            yield "concordance of pairs of patients within a hospital" + (" and stratum" if self.parsed.strata else "")
        if self.errors == "sites":
            yield "errors over sites: fewer than about twenty make them too small"
        if self.sites == "strata":
            yield "each hospital is a stratum with a baseline hazard of its own"
        else:
            yield f"times are told at {len(self.edges)} edges common to all hospitals; exact where every time of an event is an edge"

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features, intercept=False)

    def _scale(self, values: Values) -> Scale:
        return Scale(values["centre"], values["spread"], has_intercept=False)

    def _times(self, rows: Frame) -> tuple[Floats, Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
        """Entry (−∞ where there is none), time, event. Raises BadData where they are none."""
        *entered, time, event = (numbers(variable, rows) for variable in self.parsed.response)
        entry = entered[0] if entered else np.full(len(rows), -math.inf)
        if (time <= 0).any() or (entry >= time).any():
            raise BadData(say("{response} is not above 0, or not after the entry, for some patients.", response=self.parsed.response[-2]))
        if not np.isin(event, (0.0, 1.0)).all():
            raise BadData(say("{response} is not 0 or 1 for some patients.", response=self.parsed.response[-1]))
        return entry, time, event > 0

    def _own(self, rows: Frame, stratum: Integers) -> tuple[Observed, Floats]:
        """At the site's own exact times of events."""
        entry, time, event = self._times(rows)
        times = np.unique(time[event])
        first, last = np.searchsorted(times, entry, side="right"), np.searchsorted(times, time, side="right") - 1
        return Observed(first.astype(np.int64), last.astype(np.int64), event, stratum), times

    def _common(self, rows: Frame, stratum: Integers) -> Observed:
        """At the ends of the common intervals."""
        entry, time, event = self._times(rows)
        place, kind = counting.binned((time, event.astype(np.int64)), self.edges)
        first = np.searchsorted(np.asarray(self.edges), entry, side="right")
        return Observed(first.astype(np.int64), place.astype(np.int64) - 1, kind > 0, stratum)


EXAMPLE = Cox(
    formula="Surv(t, y) ~ x1 + C(g)",
    features=(Feature(name="t"), Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))),
)
