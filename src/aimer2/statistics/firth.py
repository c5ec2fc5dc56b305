"""Logistic regression by Firth's penalised likelihood: for rare events, and where the outcome follows from a term, so that no other estimate exists.

D. Firth, "Bias reduction of maximum likelihood estimates", Biometrika 80 (1993): the log-likelihood plus half the logarithm of the determinant of the
information I; its score is Σ (y − μ + h(½ − μ))x with each row's leverage h = μ(1 − μ)·xᵀI⁻¹x. Tests are by ratios of penalised likelihoods, and the
intervals' ends are where the profile of the penalised likelihood has fallen by half a quantile of χ² (G. Heinze, M. Schemper, Statistics in Medicine
21 (2002)), found by the steps of D. J. Venzon, S. H. Moolgavkar, Applied Statistics 37 (1988). All fits go through the rounds side by side: first the
whole model, each without one term, and that of the intercept alone; then the two ends of each term. A step takes two rounds: the first finds I, the
second the leverages, which need its inverse and stay at the site.

Leaves the site: ``size`` = rows, patients, events; ``moments`` = number of rows and per column sums of values and squares; ``likelihood`` = per fit
the log-likelihood; ``score`` = per fit and coefficient its derivative; ``information`` = per fit and pair of coefficients its second one;
``leverage`` = per fit and coefficient the derivative of the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table, number
from aimer2.statistics import distributions, families
from aimer2.statistics.comparison import events
from aimer2.statistics.design import Design, Floats, design, rare_outcome, too_few
from aimer2.statistics.estimates import Scale, independent, inverse
from aimer2.statistics.statistic import AbstractStatistic, Values

SETTLED = 1e-14
FOUND = 1e-11
_LONGEST = 5.0
"""Of a step, in units of the columns' spreads."""

COLUMNS = ("term", "estimate", "standard_error", "chi2", "p", "low", "high", "odds_ratio", "odds_ratio_low", "odds_ratio_high")


@final
@dataclass(frozen=True, kw_only=True)
class Firth(AbstractStatistic):
    """``level``: of the intervals."""

    crosses: ClassVar[bool] = True

    rounds: int = 60
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.survival or len(formula.response) != 1:
            yield "firth has one response of 0 and 1: write 'y ~ …'"
            return
        yield from (f"firth knows no {role}()" for role in ROLES if getattr(formula, role))
        feature = next(one for one in self.features if one.name == formula.response[0].name)
        if feature.kind == "category" and len(feature.categories) != 2:
            yield f"the response {feature.name} has not two categories, the second being the event"
        if not formula.intercept or not formula.terms:
            yield "firth needs an intercept and a term"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        ill = self._ill(rows)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure)
        yield from rare_outcome(ill, rows, disclosure)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        matrix, y = self._design.matrix(rows), self._ill(rows).astype(np.float64)
        if round_number == 1:
            counted = np.full(matrix.shape[1], float(len(rows)))
            size = np.array([len(rows), rows.counted(), y.sum()], np.float64)
            return {"size": size, "moments": np.array([counted, matrix.sum(axis=0), (matrix**2).sum(axis=0)])}
        scaled = self._scale(values).apply(matrix)
        fits = [_sums(scaled, y, *one) for one in zip(values["beta"], values["cover"], strict=True)]
        return {name: np.array([one[name] for one in fits]) for name in ("likelihood", "score", "information", "leverage")}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return self._begun(total), False
        if "target" in values:
            return self._ends(values, total)
        return self._fits(values, total, round_number)

    def _begun(self, total: Values) -> Values:
        rows, _, ill = (float(one) for one in total["size"])
        if not 0 < ill < rows:
            raise BadUpdate("Everybody has the same outcome, so nothing follows.")
        width = len(self._design.columns)
        scale = Scale.of(rows, total["moments"][1], total["moments"][2], has_intercept=True, centred=True)
        beta = np.zeros((width + 1, width))
        beta[:, 0] = np.log(ill / (rows - ill))
        return {
            "size": total["size"],
            "centre": scale.centre,
            "spread": scale.spread,
            "beta": beta,
            "before": beta,
            "cover": np.zeros((width + 1, width, width)),
            "objective": np.full(width + 1, -1e300),
            "fresh": np.zeros(width + 1),
            "settled": np.zeros(width + 1),
        }

    def _fits(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        """Steps of the whole model (fit 0), of those without one term (fits 1 …), and of the intercept alone (the last)."""
        kept = independent(total["information"][0]) if round_number == 2 else values["kept"] > 0
        penalised = _penalised(total, kept)
        moved = {name: values[name].copy() for name in ("beta", "before", "cover", "objective", "fresh", "settled")}
        for fit, own in enumerate(self._free(kept)):
            if moved["fresh"][fit]:
                move = inverse(total["information"][fit], own) @ (total["score"][fit] + total["leverage"][fit])
                moved["settled"][fit] = float(move @ total["information"][fit] @ move <= SETTLED)
                moved["before"][fit] = moved["beta"][fit]
                moved["beta"][fit] += _limited(move)
                moved["fresh"][fit] = 0.0
            elif penalised[fit] < moved["objective"][fit] - 1e-8 * abs(moved["objective"][fit]):
                moved["beta"][fit] = (moved["beta"][fit] + moved["before"][fit]) / 2
            else:
                moved["objective"][fit], moved["fresh"][fit] = penalised[fit], 1.0
                moved["cover"][fit] = inverse(total["information"][fit], kept)
        found = {**values, **moved, "kept": kept.astype(np.float64), "information": total["information"][0]}
        found["converged"] = np.array([float((moved["settled"] > 0).all())])
        return (found | self._opened(found, kept) if found["converged"][0] else found), False

    def _opened(self, moved: Values, kept: NDArray[np.bool_]) -> dict[str, Floats]:
        """The search for the ends of all intervals begins at the estimates."""
        width = len(kept)
        fall = float(distributions.chi_squared_quantile(self.level, 1)) / 2
        told = {"estimates": moved["beta"][0], "fits": moved["objective"], "target": np.array([moved["objective"][0] - fall])}
        beta, cover = (np.repeat(moved[name][:1], 2 * width, axis=0) for name in ("beta", "cover"))
        # at first where the ends would be if the profile were a parabola
        along = cover[0] * np.sqrt(2 * fall / np.where(kept, np.diag(cover[0]), 1.0))
        beta += np.stack([-along.T, along.T], axis=1).reshape(2 * width, width)
        return told | {"beta": beta, "cover": cover, "found": np.zeros(2 * width), "fresh": np.zeros(2 * width)}

    def _ends(self, values: Values, total: Values) -> tuple[Values, bool]:
        """Steps to where the profile has the height of the target: fits 2j and 2j + 1 for the lower and the upper end of term j."""
        kept, penalised = values["kept"] > 0, _penalised(total, values["kept"] > 0)
        moved = {name: values[name].copy() for name in ("beta", "cover", "found", "fresh")}
        for fit in range(len(penalised)):
            term, side = divmod(fit, 2)
            if not kept[term] or not term or moved["found"][fit]:
                moved["found"][fit] = 1.0
                continue
            if not moved["fresh"][fit]:
                moved["cover"][fit], moved["fresh"][fit] = inverse(total["information"][fit], kept), 1.0
                continue
            cover, score = moved["cover"][fit], total["score"][fit] + total["leverage"][fit]
            room = 2 * (penalised[fit] - values["target"][0]) + score @ cover @ score
            push = np.sqrt(max(room, 0.0) / cover[term, term]) * (1 if side else -1)
            move = cover @ (score + push * np.eye(len(kept))[term])
            moved["found"][fit] = float(move @ total["information"][fit] @ move <= FOUND)
            moved["beta"][fit] += _limited(move)
            moved["fresh"][fit] = 0.0
        return {**values, **moved}, bool((moved["found"] > 0).all())

    def _free(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """``(p + 1, p)``: which coefficients each fit moves."""
        width = len(kept)
        free = np.tile(kept, (width + 1, 1))
        free[np.arange(1, width), np.arange(1, width)] = False
        free[width, 1:] = False
        return free

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("beta", "cover", "centre", "spread") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        kept, scale = values["kept"] > 0, self._scale(values)
        width, ended = len(kept), "target" in values
        estimates = scale.back @ np.where(kept, values["estimates"] if ended else values["beta"][0], 0.0)
        errors = np.sqrt(np.diag(scale.back @ inverse(values["information"], kept) @ scale.back.T))
        ends = np.full((width, 2), np.nan)
        if ended:
            reached = values["found"].reshape(width, 2) > 0
            ends = np.where(reached, np.einsum("tsp,tp->ts", values["beta"].reshape(width, 2, width), scale.back), np.nan)
            # the intercept is that of uncentred columns, whose profile is another one than that of the centred
            ends[0] = np.nan
        fits = values["fits"] if ended else values["objective"]
        chi = 2 * (fits[0] - fits[1:width])
        rows: list[tuple[Cell, ...]] = []
        for place, label in enumerate(self._design.names):
            if not kept[place]:
                rows.append((label,) + (None,) * (len(COLUMNS) - 1))
                continue
            test = (chi[place - 1], float(distributions.chi_squared_above(chi[place - 1], 1))) if place else (np.nan, np.nan)
            cells = [estimates[place], errors[place], *test, *ends[place]]
            ratios = np.exp([estimates[place], *ends[place]])
            rows.append((label, *(number(float(one)) for one in (*cells, *ratios))))
        facts, notes = self._facts(values, fits, int(kept.sum())), tuple(self._notes(values, kept, ended=ended))
        return [Table(analysis=name, method=self.name, title="Coefficients", columns=COLUMNS, rows=tuple(rows), facts=facts, notes=notes)]

    def _facts(self, values: Values, fits: Floats, parameters: int) -> dict[str, Cell]:
        rows, patients, ill = (int(one) for one in values["size"])
        chi = 2 * float(fits[0] - fits[-1])
        # the determinant of the information of the columns themselves, not of the scaled ones
        shift = float(np.log(values["spread"][values["kept"] > 0]).sum())
        facts: dict[str, Cell] = {
            "rows": rows,
            "patients": patients,
            "events": ill,
            "parameters": parameters,
            "penalised_log_likelihood": float(fits[0]) + shift,
            "level": self.level,
        }
        if parameters > 1:
            facts |= {"likelihood_ratio_chi2": chi, "likelihood_ratio_p": float(distributions.chi_squared_above(chi, parameters - 1))}
        return facts

    def _notes(self, values: Values, kept: NDArray[np.bool_], *, ended: bool) -> Iterator[str]:
        if not kept.all():
            names = np.array(self._design.names)[~kept]
            yield f"these follow from the terms before them (collinear, or nobody has the category) and have no estimate: {', '.join(names)}"
        if not values["converged"][0]:
            yield f"it has not converged in {self.rounds} rounds: do not use these estimates"
        elif not ended or not values["found"].all():
            yield f"not every end of an interval was found in {self.rounds} rounds: allow more"
        yield "tests by ratios of penalised likelihoods, intervals by their profile; the intercept has neither"

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features)

    def _scale(self, values: Values) -> Scale:
        return Scale(values["centre"], values["spread"], has_intercept=True)

    def _ill(self, rows: Frame) -> NDArray[np.bool_]:
        """Raises BadData where the outcome is neither 0 nor 1."""
        response = self.parsed.response[0]
        levels = next((tuple(feature.categories) for feature in self.features if feature.name == response.name), ())
        return events(response, levels, rows)


def _sums(columns: Floats, y: Floats, beta: Floats, cover: Floats) -> dict[str, Floats]:
    """Of one fit."""
    eta = columns @ beta
    mean = families.LINKS["logit"].mean(eta)
    weight = families.LINKS["logit"].slope(eta)
    leverage = weight * ((columns @ cover) * columns).sum(axis=1)
    likely, _ = families.likelihood("binomial", y, families.inside("binomial", mean), 1.0)
    return {
        "likelihood": likely.sum(),
        "score": columns.T @ (y - mean),
        "information": columns.T @ (columns * weight[:, None]),
        "leverage": columns.T @ (leverage * (0.5 - mean)),
    }


def _penalised(total: Values, kept: NDArray[np.bool_]) -> Floats:
    """Of each fit the log-likelihood plus half the logarithm of the determinant of the information."""
    return np.array(
        [one + np.linalg.slogdet(info[np.ix_(kept, kept)])[1] / 2 for one, info in zip(total["likelihood"], total["information"], strict=True)]
    )


def _limited(move: Floats) -> Floats:
    return np.asarray(move * min(1.0, _LONGEST / max(float(np.abs(move).max()), _LONGEST)))


EXAMPLE = Firth(formula="y ~ x1 + C(g)", features=(Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))))
