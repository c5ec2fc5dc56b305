"""Logistic regression by Firth's penalised likelihood: for rare events, and where the outcome follows from a term, so that no other estimate exists.

D. Firth, "Bias reduction of maximum likelihood estimates", Biometrika 80 (1993): the log-likelihood plus half the logarithm of the determinant of the
information I; its score is U + A, A = Σ h(½ − μ)x with each row's leverage h = μ(1 − μ)·xᵀI⁻¹x. Tests are by ratios of penalised likelihoods, and the
intervals' ends are where the profile of the penalised likelihood has fallen by half a quantile of χ² (G. Heinze, M. Schemper, Statistics in Medicine
21 (2002)), found by the steps of D. J. Venzon, S. H. Moolgavkar, Applied Statistics 37 (1988). All fits go through the rounds side by side: the whole
model, each without one term, and that of the intercept alone; once the whole model is near, also the two ends of each term.

Leverages need I⁻¹ and stay at the site, so a round finds U and I at one point and A at the one before it, whose I is known. A is carried to the new
point by its derivative: with the leverages held, −C with C = Σ h μ(1 − μ) xxᵀ; what is left of it is learnt from one point to the next (M. J. D.
Powell's symmetric Broyden update, in "Nonlinear Programming", 1970). So nearly every round is a step by Newton's method.

Leaves the site: ``size`` = rows, patients, events; ``moments`` = number of rows and per column sums of values and squares; ``likelihood`` = per fit
the log-likelihood; ``score`` = per fit and coefficient its derivative; ``information`` = per fit and pair of coefficients its second one;
``leverage`` = per fit and coefficient the derivative of the penalty; ``curvature`` = per fit and pair of coefficients the information by leverages.
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
from aimer2.core.tree import NumpyArray
from aimer2.statistics import distributions, families
from aimer2.statistics.comparison import events
from aimer2.statistics.design import Design, Floats, design, rare_outcome, too_few
from aimer2.statistics.estimates import Scale, independent, inverse
from aimer2.statistics.statistic import AbstractStatistic, Values

SETTLED = 1e-12
"""Of a step, by how much it would change twice the log-likelihood."""

FAR = 1e300
ROUNDING = 1e-8
"""By how much of itself a height is uncertain."""

NEAR = 1e-2
"""How near the whole model is, in twice its log-likelihood, when the search for the ends of intervals begins."""

_LONGEST = 5.0
"""Of a step, in units of the columns' spreads."""

_FLATTEST, _STEEPEST = 0.3, 3.0
"""What a step takes the penalised likelihood's curvature for, at the least and the most, in units of the information."""

_OF_FITS = ("beta", "at", "cover", "where", "slope", "bend", "learnt", "best", "objective", "settled")
"""Of each fit: the point asked about; the one before it, whose leverages are asked about, with the inverse of its information (0: none); the point of
the last known derivative of the penalty, that derivative, and its own; the part of it that is learnt; the highest point, its height; how far the last
step went."""

COLUMNS = ("term", "estimate", "standard_error", "chi2", "p", "low", "high", "odds_ratio", "odds_ratio_low", "odds_ratio_high")


@final
@dataclass(frozen=True, kw_only=True)
class Firth(AbstractStatistic):
    """``level``: of the intervals."""

    version: ClassVar[int] = 2
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
        fits = [_sums(scaled, y, *one) for one in zip(values["beta"], values["at"], values["cover"], strict=True)]
        return {name: np.array([one[name] for one in fits]) for name in fits[0]}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return self._begun(total), False
        kept = independent(total["information"][0]) if round_number == 2 else values["kept"] > 0
        height, free = _penalised(total, kept), self._free(kept, len(values["beta"]))
        fall = float(distributions.chi_squared_quantile(self.level, 1)) / 2
        moved = {name: values[name].copy() for name in _OF_FITS}
        for fit, own in enumerate(free):
            one = {name: values[name][fit] for name in _OF_FITS}
            place = fit - len(kept) - 1
            end = None if place < 0 else (int(np.flatnonzero(kept)[1 + place // 2]), place % 2 == 1, float(height[0]) - fall)
            known = {name: total[name][fit] for name in ("score", "information", "leverage", "curvature")}
            for name, value in _advanced(one, known, float(height[fit]), own, kept, end).items():
                moved[name][fit] = value
        found = {**values, **moved, "kept": kept.astype(np.float64), "information": total["information"][0]}
        if above := _above(moved, len(kept)):
            return found | _restarted(moved, above, len(kept)), False
        is_open = len(free) > len(kept) + 1
        if not is_open and moved["settled"][0] <= NEAR:
            return found | _opened(moved, kept, fall), False
        return found, is_open and bool((moved["settled"] <= SETTLED).all())

    def _begun(self, total: Values) -> Values:
        rows, _, ill = (float(one) for one in total["size"])
        if not 0 < ill < rows:
            raise BadUpdate("Everybody has the same outcome, so nothing follows.")
        width = len(self._design.columns)
        scale = Scale.of(rows, total["moments"][1], total["moments"][2], has_intercept=True, centred=True)
        beta, square = np.zeros((width + 1, width)), np.zeros((width + 1, width, width))
        beta[:, 0] = np.log(ill / (rows - ill))
        nothing, far = np.zeros((width + 1, width)), np.full(width + 1, FAR)
        begun = (beta, nothing, square, nothing, nothing, square, square, beta, -far, far)
        return {"size": total["size"], "centre": scale.centre, "spread": scale.spread, **dict(zip(_OF_FITS, begun, strict=True))}

    def _free(self, kept: NDArray[np.bool_], fits: int) -> NDArray[np.bool_]:
        """``(fits, p)``: which coefficients each fit moves."""
        width = len(kept)
        free = np.tile(kept, (fits, 1))
        free[np.arange(1, width), np.arange(1, width)] = False
        free[width, 1:] = False
        return free

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("beta", "at", "cover", "centre", "spread") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        kept, scale = values["kept"] > 0, self._scale(values)
        width = len(kept)
        terms = np.flatnonzero(kept)[1:]
        estimates = scale.back @ np.where(kept, values["beta"][0], 0.0)
        errors = np.sqrt(np.diag(scale.back @ inverse(values["information"], kept) @ scale.back.T))
        # the intercept is that of uncentred columns, whose profile is another one than that of the centred
        ends = np.full((width, 2), np.nan)
        if len(values["beta"]) > width + 1:
            reached = values["settled"][width + 1 :].reshape(-1, 2) <= SETTLED
            points = values["beta"][width + 1 :].reshape(-1, 2, width)
            ends[terms] = np.where(reached, np.einsum("tsp,tp->ts", points, scale.back[terms]), np.nan)
        fits = values["objective"][: width + 1]
        chi = _ratios(fits)[1:width]
        rows: list[tuple[Cell, ...]] = []
        for place, label in enumerate(self._design.names):
            if not kept[place]:
                rows.append((label,) + (None,) * (len(COLUMNS) - 1))
                continue
            test = (chi[place - 1], float(distributions.chi_squared_above(chi[place - 1], 1))) if place else (np.nan, np.nan)
            cells = [estimates[place], errors[place], *test, *ends[place]]
            ratios = np.exp([estimates[place], *ends[place]])
            rows.append((label, *(number(float(one)) for one in (*cells, *ratios))))
        facts, notes = self._facts(values, fits, int(kept.sum())), tuple(self._notes(values, kept))
        return [Table(analysis=name, method=self.name, title="Coefficients", columns=COLUMNS, rows=tuple(rows), facts=facts, notes=notes)]

    def _facts(self, values: Values, fits: Floats, parameters: int) -> dict[str, Cell]:
        rows, patients, ill = (int(one) for one in values["size"])
        chi = float(_ratios(fits)[-1])
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
            facts |= {"likelihood_ratio_chi2": chi, "likelihood_ratio_p": number(float(distributions.chi_squared_above(chi, parameters - 1)))}
        return facts

    def _notes(self, values: Values, kept: NDArray[np.bool_]) -> Iterator[str]:
        if not kept.all():
            names = np.array(self._design.names)[~kept]
            yield f"these follow from the terms before them (collinear, or nobody has the category) and have no estimate: {', '.join(names)}"
        width, is_settled = len(kept), values["settled"] <= SETTLED
        if not is_settled[: width + 1].all() or (_ratios(values["objective"][: width + 1]) < 0).any():
            yield f"it has not converged in {self.rounds} rounds: do not use these estimates"
        elif len(is_settled) == width + 1 or not is_settled.all():
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


def _sums(columns: Floats, y: Floats, beta: Floats, at: Floats, cover: Floats) -> dict[str, Floats]:
    """Of one fit: the likelihood at ``beta``, the penalty at the point before it, where the inverse of the information is ``cover``."""
    link = families.LINKS["logit"]
    mean, weight = link.mean(columns @ beta), link.slope(columns @ beta)
    likely, _ = families.likelihood("binomial", y, families.inside("binomial", mean), 1.0)
    before = link.slope(columns @ at)
    leverage = before * ((columns @ cover) * columns).sum(axis=1)
    return {
        "likelihood": likely.sum(),
        "score": columns.T @ (y - mean),
        "information": columns.T @ (columns * weight[:, None]),
        "leverage": columns.T @ (leverage * (0.5 - link.mean(columns @ at))),
        "curvature": columns.T @ (columns * (leverage * before)[:, None]),
    }


End = tuple[int, bool, float]
"""Of an interval: its term, whether it is the upper one, and the height of the profile there."""


def _advanced(one: Values, known: Values, height: float, free: NDArray[np.bool_], kept: NDArray[np.bool_], end: End | None) -> Values:
    """A fit's next point, or the end of an interval's, from the sums at the last one."""
    now: dict[str, NumpyArray] = dict(one)
    if one["cover"].any():
        way = one["at"] - one["where"]
        if one["slope"].any():
            now["learnt"] = _learnt(one["learnt"], way, known["leverage"] - one["slope"] + known["curvature"] @ way)
        now |= {"where": one["at"], "slope": known["leverage"], "bend": now["learnt"] - known["curvature"]}
    beta, information = one["beta"], known["information"]
    if end is None and height < one["objective"] - ROUNDING * abs(one["objective"]):
        return now | {"beta": (beta + one["best"]) / 2, "cover": np.zeros_like(information), "settled": np.array(FAR)}
    score = known["score"] + now["slope"] + now["bend"] @ (beta - now["where"]) * bool(now["slope"].any())
    cover = _curved(information, now["bend"], free)
    move = cover @ score
    if end is not None:
        term, is_upper, target = end
        room = 2 * (height - target) + score @ cover @ score
        move = move + cover[term] * np.sqrt(max(room, 0.0) / cover[term, term]) * (1 if is_upper else -1)
    far = float(move @ information @ move) if now["slope"].any() else FAR
    moved = beta + _limited(move)
    return now | {
        "at": beta,
        "cover": inverse(information, kept),
        "beta": moved,
        "best": beta,
        "objective": np.array(height),
        "settled": np.array(far),
    }


def _learnt(known: Floats, way: Floats, missed: Floats) -> Floats:
    """A symmetric matrix that also explains by how much the last prediction ``known @ way`` missed."""
    length = float(way @ way)
    if length < np.finfo(np.float64).tiny:
        return known
    rest = missed - known @ way
    both = np.outer(rest, way) + np.outer(way, rest)
    return np.asarray(known + both / length - (way @ rest) * np.outer(way, way) / length**2)


def _curved(information: Floats, bend: Floats, free: NDArray[np.bool_]) -> Floats:
    """The inverse of the penalised likelihood's curvature over the free coefficients, 0 elsewhere; it is no other than the information's by far."""
    part = np.ix_(free, free)
    turn = np.linalg.inv(np.linalg.cholesky(information[part]))
    size, axes = np.linalg.eigh(turn @ (information - bend)[part] @ turn.T)
    whole = np.zeros_like(information)
    whole[part] = turn.T @ (axes / np.clip(size, _FLATTEST, _STEEPEST)) @ axes.T @ turn
    return whole


def _opened(moved: Values, kept: NDArray[np.bool_], fall: float) -> dict[str, Floats]:
    """The search for the ends of all intervals begins where they would be if the profile were a parabola."""
    terms = np.flatnonzero(kept)[1:]
    cover = moved["cover"][0]
    along = cover[terms] * np.sqrt(2 * fall / np.diag(cover)[terms])[:, None]
    opened = {name: np.repeat(moved[name][:1], 2 * len(terms), axis=0) for name in _OF_FITS}
    opened["beta"] = opened["beta"] + np.stack([-along, along], axis=1).reshape(opened["beta"].shape)
    opened["cover"] = np.zeros_like(opened["cover"])
    opened["settled"] = np.full(len(opened["beta"]), FAR)
    return {name: np.concatenate([moved[name], opened[name]]) for name in _OF_FITS}


def _above(moved: Values, width: int) -> int:
    """The fit of a part of the model that lies higher than the whole model can still come from where it is, on a lower hill than that; 0: none."""
    heights, near = moved["objective"][: width + 1], float(moved["settled"][0])
    highest = int(np.argmax(heights))
    return highest if near <= NEAR and heights[highest] > heights[0] + near + ROUNDING * abs(heights[0]) else 0


def _restarted(moved: Values, above: int, width: int) -> dict[str, Floats]:
    """The whole model goes on from that fit; ends of intervals that were sought about the lower hill are no more."""
    restarted = {name: moved[name][: width + 1].copy() for name in _OF_FITS}
    for one in restarted.values():
        one[0] = one[above]
    restarted["settled"][0] = FAR
    return restarted


def _ratios(heights: Floats) -> Floats:
    """Twice by how much each fit lies below the first; what rounding alone has brought below 0 is 0."""
    ratios = 2 * (heights[0] - heights)
    return np.asarray(np.where(ratios < -2 * ROUNDING * np.abs(heights[0]), ratios, np.maximum(ratios, 0.0)))


def _penalised(total: Values, kept: NDArray[np.bool_]) -> Floats:
    """Of each fit the log-likelihood plus half the logarithm of the determinant of the information."""
    return np.array(
        [one + np.linalg.slogdet(info[np.ix_(kept, kept)])[1] / 2 for one, info in zip(total["likelihood"], total["information"], strict=True)]
    )


def _limited(move: Floats) -> Floats:
    return np.asarray(move * min(1.0, _LONGEST / max(float(np.abs(move).max()), _LONGEST)))


EXAMPLE = Firth(formula="y ~ x1 + C(g)", features=(Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))))
