"""Regression of outcomes that belong together, of one patient or of one hospital: generalised estimating equations, equal to the pooled fit.

K.-Y. Liang, S. L. Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986): β solves Σ DᵀV⁻¹(y − μ) = 0 over
clusters, V = φ A^½ R A^½, with R = 1 on the diagonal and α beside it (``exchangeable``). Its inverse is (I − α/(1 + (n − 1)α) J)/(1 − α), so no
matrix is inverted. α is estimated by moments: Σ over pairs of a cluster of eᵢeⱼ/φ over the number of all pairs less p, with Pearson's residuals e
and φ = Σe²/(n − p). β and α move in turn until neither does. Standard errors are the sandwich's, right also where R is wrong, if there are many
clusters. With α = 0 it is a generalised linear model with errors that are robust over clusters.

With few clusters the sandwich is too small, for residuals are smaller than errors: ``bias_reduced`` errors have e/(1 − H) in place of e, with each
cluster's leverage H = DI⁻¹DᵀV⁻¹ of the information I of all (L. A. Mancl, T. A. DeRouen, Biometrics 57 (2001)), in one further round. With
I⁻¹ = LLᵀ a cluster's score s becomes (1 − LᵀDᵀV⁻¹DL)⁻¹Lᵀs, so that no matrix is as large as a cluster.

Leaves the site: ``size`` = rows, patients, clusters; ``moments`` = number of rows and per column the sums of values and squares; ``start`` = sums
of the response and of the offset; ``score`` = per coefficient the estimating function; ``information`` = per pair of coefficients its derivative;
``meat`` = the sum over clusters of squares of the score, for bias-reduced errors of that score; ``residuals`` = sum of squared residuals, of their
products over pairs, and how many pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics import families
from aimer2.statistics.design import Design, Floats, design, numbers, rare_outcome, too_few
from aimer2.statistics.estimates import Fit, Scale, coefficients, independent, inverse
from aimer2.statistics.families import LINKS, USUAL_LINKS
from aimer2.statistics.response import categories_against, outcome
from aimer2.statistics.statistic import AbstractStatistic, Values

SETTLED = 1e-16
_RATIOS = {"binomial": "odds_ratio", "poisson": "rate_ratio"}
_NEAREST = 0.999
_DETERMINED = 1e-8


@final
@dataclass(frozen=True, kw_only=True)
class Gee(AbstractStatistic):
    """``clusters``: whose rows belong together. ``correlation``: how, within a cluster. ``errors``: ``bias_reduced`` are for few clusters. Links are
    the usual ones."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"score", "information", "meat", "residuals"})
    crosses: ClassVar[bool] = True

    family: Literal["gaussian", "binomial", "poisson", "gamma"] = "gaussian"
    clusters: Literal["patients", "sites"] = "patients"
    correlation: Literal["exchangeable", "independence"] = "exchangeable"
    errors: Literal["robust", "bias_reduced"] = "robust"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.survival or len(formula.response) != 1:
            yield "gee has one response: write 'y ~ …'"
            return
        if formula.strata or formula.cluster or formula.weights:
            yield "gee knows neither strata(), cluster() nor weights(): `clusters` are patients or sites"
        yield from categories_against(formula, self.features, self.family)
        if not self._design.columns:
            yield "there is no term to estimate"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        y = outcome(self.parsed, rows, self.family)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure)
        if self.family == "binomial":
            yield from rare_outcome(y, rows, disclosure)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        y, matrix = outcome(self.parsed, rows, self.family), self._design.matrix(rows)
        offset = numbers(self.parsed.offset[0], rows) if self.parsed.offset else np.zeros(len(rows))
        cluster, many = self._clusters(rows)
        if round_number == 1:
            return {
                "size": np.array([len(rows), rows.counted(), many], np.float64),
                "moments": np.array([np.full(matrix.shape[1], float(len(rows))), matrix.sum(axis=0), (matrix**2).sum(axis=0)]),
                "start": np.array([y.sum(), offset.sum()]),
            }
        link, alpha = LINKS[USUAL_LINKS[self.family]], float(values["alpha"][0])
        eta = self._scale(values).apply(matrix) @ values["beta"] + offset
        mean, slope = families.inside(self.family, link.mean(eta)), link.slope(eta)
        deviation = np.sqrt(families.variance(self.family, mean, 1.0))
        residual = (y - mean) / deviation
        steep = self._scale(values).apply(matrix) * (slope / deviation)[:, None]
        count = np.bincount(cluster, minlength=many)
        shared = alpha / (1 + (count - 1) * alpha)
        sums = np.zeros((many, matrix.shape[1]))
        np.add.at(sums, cluster, steep)
        together = np.bincount(cluster, residual, many)
        # R⁻¹e of each cluster: e less its share of the cluster's sum
        turned = (residual - (shared * together)[cluster]) / (1 - alpha)
        scores = np.zeros_like(sums)
        np.add.at(scores, cluster, steep * turned[:, None])
        information = (steep.T @ steep - (sums * shared[:, None]).T @ sums) / (1 - alpha)
        if "root" in values:
            root = values["root"]
            scores = _without_leverage(scores @ root, steep @ root, sums @ root, cluster, alpha)
        return {
            "score": steep.T @ turned,
            "information": information,
            "meat": scores.T @ scores,
            "residuals": np.array([residual @ residual, (together**2).sum() / 2 - residual @ residual / 2, (count * (count - 1)).sum() / 2]),
        }

    def _clusters(self, rows: Frame) -> tuple[NDArray[np.int64], int]:
        if self.clusters == "sites":
            return np.zeros(len(rows), np.int64), int(len(rows) > 0)
        known, place = np.unique(rows.patients, return_inverse=True)
        return place.astype(np.int64), len(known)

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return self._begun(total), False
        if "root" in values:
            return {**values, "reduced": total["meat"]}, True
        beta, information = values["beta"], total["information"]
        kept = independent(information) if round_number == 2 else values["kept"] > 0
        cover = inverse(information, kept)
        move = cover @ total["score"]
        alpha, dispersion = self._association(total["residuals"], float(values["size"][0]), int(kept.sum()))
        before = float(values["alpha"][0])
        settled = max(float(move @ information @ move) / dispersion, (alpha - before) ** 2)
        moved = {
            **values,
            "beta": beta + move,
            "alpha": np.array([alpha]),
            "kept": kept.astype(np.float64),
            "information": information,
            "meat": total["meat"],
            "residuals": total["residuals"],
            "converged": np.array([float(settled <= SETTLED)]),
        }
        if settled <= SETTLED and self.errors == "bias_reduced":
            part = np.ix_(kept, kept)
            root = np.zeros_like(cover)
            root[part] = np.linalg.cholesky(cover[part])
            return {**moved, "root": root}, False
        return moved, settled <= SETTLED

    def _begun(self, total: Values) -> Values:
        counted, sums, squares = total["moments"]
        rows = float(total["size"][0])
        if not rows > 0:
            raise BadUpdate("Nobody's data count.")
        has_intercept = self._design.has_intercept
        scale = Scale.of(rows, sums, squares, has_intercept=has_intercept, centred=has_intercept)
        beta = np.zeros(len(counted))
        if has_intercept:
            response, offset = total["start"] / rows
            beta[0] = LINKS[USUAL_LINKS[self.family]].of(families.inside(self.family, np.array([response])))[0] - offset
        return {"size": total["size"], "beta": beta, "alpha": np.zeros(1), "centre": scale.centre, "spread": scale.spread}

    def _association(self, residuals: Floats, rows: float, parameters: int) -> tuple[float, float]:
        """α and φ by moments; α stays within what some R allows."""
        squares, products, pairs = (float(one) for one in residuals)
        dispersion = max(squares, np.finfo(np.float64).tiny) / max(rows - parameters, 1.0)
        if self.correlation == "independence" or pairs <= parameters:
            return 0.0, dispersion
        return float(np.clip(products / dispersion / (pairs - parameters), -_NEAREST, _NEAREST)), dispersion

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("beta", "alpha", "centre", "spread", "root") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        kept, back = values["kept"] > 0, self._scale(values).back
        cover = inverse(values["information"], kept)
        meat = cover @ values["meat"] @ cover if "reduced" not in values else values["root"] @ values["reduced"] @ values["root"].T
        fit = Fit(
            names=self._design.names,
            estimates=back @ np.where(kept, values["beta"], 0.0),
            covariance=back @ meat @ back.T,
            aliased=~kept,
            freedom=None,
            level=self.level,
            ratio=_RATIOS.get(self.family, ""),
        )
        rows, patients, clusters = (int(value) for value in values["size"])
        _, dispersion = self._association(values["residuals"], rows, int(kept.sum()))
        facts: dict[str, Cell] = {
            "family": self.family,
            "link": USUAL_LINKS[self.family],
            "clusters": self.clusters,
            "correlation": self.correlation,
            "errors": self.errors.replace("_", " "),
            "rows": rows,
            "patients": patients,
            "number_of_clusters": clusters,
            "parameters": int(kept.sum()),
            "alpha": float(values["alpha"][0]),
            "dispersion": number(dispersion),
        }
        return [coefficients(fit, analysis=name, method=self.name, facts=facts, notes=list(self._notes(values, kept, clusters)))]

    def _notes(self, values: Values, kept: NDArray[np.bool_], clusters: int) -> Iterator[str]:
        if not kept.all():
            names = np.array(self._design.names)[~kept]
            yield f"these follow from the terms before them (collinear, or nobody has the category) and have no estimate: {', '.join(names)}"
        if not values["converged"][0]:
            yield f"it has not converged in {self.rounds} rounds: do not use these estimates"
        elif self.errors == "bias_reduced" and "reduced" not in values:
            yield f"errors are not corrected for few clusters: allow more than {self.rounds} rounds"
        if clusters < 10 and self.errors == "bias_reduced":
            yield f"errors over {clusters} clusters: fewer than about ten may make them too small even so"
        if clusters < 20 and self.errors == "robust":
            yield f"errors over {clusters} clusters: fewer than about twenty make them too small; errors = 'bias_reduced' corrects them"
        if self.correlation == "exchangeable" and values["residuals"][2] <= kept.sum():
            yield "there are too few pairs of rows to estimate a correlation: none is assumed"

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features)

    def _scale(self, values: Values) -> Scale:
        return Scale(values["centre"], values["spread"], self._design.has_intercept)


def _without_leverage(scores: Floats, steep: Floats, sums: Floats, cluster: NDArray[np.int64], alpha: float) -> Floats:
    """Each cluster's score ``(clusters, p)`` of its errors in place of its residuals, all in units in which the information of all is 1. What one
    cluster alone determines has no error that could be seen: its score is 0 there."""
    order = np.argsort(cluster, kind="stable")
    parts = np.split(steep[order], np.cumsum(np.bincount(cluster, minlength=len(scores)))[:-1]) if len(scores) else []
    made = np.zeros_like(scores)
    for place, part in enumerate(parts):
        shared = alpha / (1 + (len(part) - 1) * alpha)
        leverage, axes = np.linalg.eigh((part.T @ part - shared * np.outer(sums[place], sums[place])) / (1 - alpha))
        left = 1 - leverage
        made[place] = axes @ np.where(left > _DETERMINED, (axes.T @ scores[place]) / np.maximum(left, _DETERMINED), 0.0)
    return made


EXAMPLE = Gee(formula="y ~ x1 + C(g)", features=(Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))))
