"""The effect of a treatment that was not randomised, with patients weighted by their propensity for it.

``outcome ~ treatment + age + C(sex)``: the first term is the treatment, a category of two, the others what decided about it. A logistic regression
of the treatment on these, over all hospitals, gives each patient's propensity e, which stays at the hospital. Weighted, both groups are like all
patients (``ate``: weights 1/e and 1/(1 − e)) or like the treated (``att``: 1 and e/(1 − e)); the effect is the difference of their weighted means.
Its standard error counts in that the propensities are estimated: the sandwich of all estimating equations together. It is right only if the
propensity model is, and nothing else decided about the treatment.

Papers: P. R. Rosenbaum, D. B. Rubin, "The central role of the propensity score in observational studies for causal effects", Biometrika 70 (1983);
J. K. Lunceford, M. Davidian, Statistics in Medicine 23 (2004), for the sandwich; P. C. Austin, E. A. Stuart, Statistics in Medicine 34 (2015), for
balance.

Leaves the site: ``size`` = rows and patients; ``moments`` = per column of the propensity model the sums of values and squares; ``groups`` = patients
of either group; ``score`` = per coefficient the derivative of its log-likelihood; ``information`` = per pair the second derivative; ``weighted`` = of
either group the sums of weights, their squares, and weights times the outcome; ``balance`` = of either group, per column, sums of values and
squares, plain and weighted; ``meat`` = per pair of estimating equations the sum of products; ``bread`` = their derivatives by the propensity's
coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES, Variable
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, Level, effect_cells, events, facts, has_few, significance_cells
from aimer2.statistics.design import Design, Floats, design, numbers, too_few
from aimer2.statistics.estimates import Fit, Scale, coefficients, independent, inverse
from aimer2.statistics.significance import standardised, symmetric
from aimer2.statistics.statistic import AbstractStatistic, Values

CONVERGED = 1e-18
FAR = 30.0
FITTING, WEIGHING, JUDGING = 0.0, 1.0, 2.0


@final
@dataclass(frozen=True, kw_only=True)
class PropensityWeighting(AbstractStatistic):
    """``estimand``: the effect on all patients, or on the treated. ``level``: of the intervals."""

    crosses: ClassVar[bool] = True

    estimand: Literal["ate", "att"] = "ate"
    level: Level = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.survival or len(formula.response) != 1 or len(formula.terms) < 2 or len(formula.terms[0]) != 1:
            yield "propensity_weighting is asked as outcome ~ treatment + what decided about it"
            return
        if len(self._levels(self._treatment)) != 2 or any(self._treatment in term for term in formula.terms[1:]):
            yield f"{self._treatment}, the treatment, must have two categories and stand in no interaction"
        if len(self._levels(formula.response[0])) not in (0, 2):
            yield f"the outcome {formula.response[0]} must be a number, or have two categories"
        if not formula.intercept:
            yield "the propensity model needs its intercept"
        yield from (f"propensity_weighting knows no {role}()" for role in ROLES if getattr(formula, role))

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure)
        outcome = self.parsed.response[0]
        if levels := self._levels(outcome):
            cell = self._treated(rows) * 2 + events(outcome, levels, rows)
            if has_few(rows, np.asarray(cell), disclosure):
                yield f"fewer than {disclosure.minimum_cell} patients of a group have one of the outcomes"

    @property
    def _treatment(self) -> Variable:
        return self.parsed.terms[0][0]

    @property
    def _design(self) -> Design:
        return design(replace(self.parsed, terms=self.parsed.terms[1:]), self.features)

    def _levels(self, variable: Variable) -> tuple[str, ...]:
        return next((tuple(one.categories) for one in self.features if one.name == variable.name), ())

    def _treated(self, rows: Frame) -> NDArray[np.int64]:
        return rows.columns[self._treatment.name].astype(np.int64)

    def _outcome(self, rows: Frame) -> Floats:
        variable = self.parsed.response[0]
        levels = self._levels(variable)
        return events(variable, levels, rows).astype(np.float64) if levels else numbers(variable, rows)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        matrix, treated = self._design.matrix(rows), self._treated(rows)
        if round_number == 1:
            size = np.array([len(rows), rows.counted()], np.float64)
            moments = np.array([matrix.sum(axis=0), (matrix**2).sum(axis=0)])
            return {"size": size, "moments": moments, "groups": np.bincount(treated, minlength=2).astype(np.float64)}
        scaled = self._scale(values).apply(matrix)
        propensity = 1 / (1 + np.exp(-np.clip(scaled @ values["beta"], -FAR, FAR)))
        part = scaled * (treated - propensity)[:, None]
        if values["phase"] == FITTING:
            return {"score": part.sum(axis=0), "information": scaled.T @ (scaled * (propensity * (1 - propensity))[:, None])}
        weights, turned = self._weights(treated, propensity)
        outcome = self._outcome(rows)
        group = np.stack([1 - treated, treated]).astype(np.float64)
        if values["phase"] == WEIGHING:
            totals = np.stack([group @ weights, group @ weights**2, group @ (weights * outcome)], axis=1)
            powers = [matrix, matrix**2]
            balance = np.stack([np.stack([group @ power, (group * weights) @ power]) for power in powers])
            return {"weighted": totals, "balance": balance}
        distance = outcome - values["means"][treated]
        equations = np.column_stack([part, (group * weights * distance).T])
        return {"meat": equations.T @ equations, "bread": (group * turned * distance) @ scaled}

    def _weights(self, treated: NDArray[np.int64], propensity: Floats) -> tuple[Floats, Floats]:
        """Each patient's weight, and its derivative by the linear predictor."""
        odds = propensity / (1 - propensity)
        if self.estimand == "att":
            return np.where(treated == 1, 1.0, odds), np.where(treated == 1, 0.0, odds)
        return np.where(treated == 1, 1 / propensity, 1 / (1 - propensity)), np.where(treated == 1, -1 / odds, odds)

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            width = len(self._design.columns)
            return {**total, "beta": np.zeros(width), "phase": np.array(FITTING)}, bool((total["groups"] == 0).any())
        if values["phase"] == FITTING:
            kept = independent(total["information"]) if round_number == 2 else values["kept"] > 0
            cover = inverse(total["information"], kept)
            move = cover @ total["score"]
            done = float(total["score"] @ move) < CONVERGED
            beta = values["beta"] + move
            far = bool(np.abs(beta).max() > FAR)
            found = {**values, "beta": values["beta"] if done or far else beta, "kept": kept.astype(np.float64), "information": total["information"]}
            return {**found, "phase": np.array(WEIGHING if done else FITTING)}, far
        if values["phase"] == WEIGHING:
            means = total["weighted"][:, 2] / total["weighted"][:, 0]
            return {**values, **total, "means": means, "phase": np.array(JUDGING)}, False
        return {**values, **total}, True

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("size", "moments", "beta", "phase", "means") if name in values}

    def _scale(self, values: Values) -> Scale:
        sums, squares = values["moments"]
        return Scale.of(float(values["size"][0]), sums, squares, has_intercept=True, centred=True)

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        if "meat" not in values:
            empty = (values["groups"] == 0).any()
            why = "One of the groups has no patients." if empty else "The groups have no overlap: what decided about the treatment separates them."
            return [Table(analysis=name, method=self.name, title="No answer", columns=("term",), rows=(), facts=facts(values["size"]), notes=(why,))]
        return [self._effect(name, values), self._balance(name, values), self._model(name, values)]

    def _covariance(self, values: Values) -> Floats:
        """Of the coefficients and the two weighted means: bread⁻¹ · meat · bread⁻ᵀ; terms without an estimate left out."""
        kept = np.append(values["kept"] > 0, [True, True])
        width = len(values["beta"])
        bread = np.zeros((width + 2, width + 2))
        bread[:width, :width] = values["information"]
        bread[width:, :width] = -values["bread"]
        bread[width:, width:] = np.diag(values["weighted"][:, 0])
        turned = np.linalg.inv(bread[np.ix_(kept, kept)])
        return np.asarray((turned @ values["meat"][np.ix_(kept, kept)] @ turned.T)[-2:, -2:])

    def _effect(self, name: str, values: Values) -> Table:
        covariance, means = self._covariance(values), values["means"]
        levels = self._levels(self._treatment)
        blank: tuple[Cell, ...] = (None, None, None)
        rows = [
            (f"{self._treatment} = {level}", *effect_cells(symmetric(float(mean), float(np.sqrt(variance)), self.level)), *blank)
            for level, mean, variance in zip(levels, means, np.diag(covariance), strict=True)
        ]
        contrast = np.array([-1.0, 1.0])
        effect = symmetric(float(contrast @ means), float(np.sqrt(max(contrast @ covariance @ contrast, 0.0))), self.level)
        test = standardised(effect.estimate / effect.error) if effect.error > 0 else None
        rows.append((f"{levels[1]} − {levels[0]}", *effect_cells(effect), *(significance_cells(test) if test else blank)))
        effective = values["weighted"][:, 0] ** 2 / values["weighted"][:, 1]
        shown = {**facts(values["size"]), "estimand": self.estimand, "level": self.level}
        shown |= {f"effective patients: {level}": number(float(one)) for level, one in zip(levels, effective, strict=True)}
        title = "Effect on all patients" if self.estimand == "ate" else "Effect on the treated"
        return Table(analysis=name, method=self.name, title=title, columns=("term", *EFFECT, *SIGNIFICANCE), rows=tuple(rows), facts=shown)

    def _balance(self, name: str, values: Values) -> Table:
        """Standardised differences of the model's columns before and after weighting, both in the plain standard deviation of the two groups."""
        (plain, weighted), (squares, _) = values["balance"]
        count = values["groups"][:, None]
        means, after = plain / count, weighted / values["weighted"][:, :1]
        spread = np.sqrt(np.maximum((squares / count - means**2).mean(axis=0), 0.0))
        rows = [
            (label, *(number(float((one[1] - one[0])[place] / spread[place])) if spread[place] > 0 else None for one in (means, after)))
            for place, label in enumerate(self._design.names)
            if place > 0
        ]
        return Table(analysis=name, method=self.name, title="Balance", columns=("term", "difference_before", "difference_after"), rows=tuple(rows))

    def _model(self, name: str, values: Values) -> Table:
        scale, kept = self._scale(values), values["kept"] > 0
        cover = scale.back @ inverse(values["information"], kept) @ scale.back.T
        level = self.level
        fit = Fit(
            names=self._design.names,
            estimates=scale.back @ values["beta"],
            covariance=cover,
            aliased=~kept,
            freedom=None,
            level=level,
            ratio="odds_ratio",
        )
        table = coefficients(fit, analysis=name, method=self.name, facts={}, notes=())
        return table.model_copy(update={"title": "Propensity model"})


EXAMPLE = PropensityWeighting(
    formula="y ~ g + x + s",
    features=(
        Feature(name="y"),
        Feature(name="x"),
        Feature(name="g", kind="category", categories=("a", "b")),
        Feature(name="s", kind="category", categories=("f", "m")),
    ),
)
