"""Linear and logistic regression under differential privacy, with intervals that hold the noise.

``y ~ age + C(sex)``: columns, without functions and interactions; numbers have a range. Numbers are brought to −1 to 1 by their ranges; coefficients
are told in their own units. *Linear*: the products of all columns and the outcome, with noise, in one round; coefficients are b = M⁻¹c, with
covariance s²M⁻¹ for the patients and M⁻¹ N M⁻¹ for the noise, N = σ²/2 ((1 + |b|²) I + bbᵀ), that of e − Eb. *Logistic*: as many Newton steps as
``steps`` says, each by a gradient and an information with noise; the covariance is H⁻¹ + σ² H⁻². Where the information is not well above its noise
there is no answer, for there intervals would not hold.

Papers: D. Vu, A. Slavković, "Differential privacy for clinical trial data: preliminary evaluations", ICDM workshops (2009), for noisy products;
M. Avella-Medina, C. Bradshaw, P.-L. Loh, "Differentially private inference via noisy optimization", Annals of Statistics 51 (2023), for noisy Newton
steps and their intervals.

Leaves the site: ``parts`` = with noise, linear: per pair of columns, the outcome among them, the sum of products; logistic: the derivative of the
log-likelihood per coefficient, and its second derivative per pair; ``sites`` = 1 where there is any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table
from aimer2.statistics.design import Design, design
from aimer2.statistics.estimates import Fit, coefficients
from aimer2.statistics.private import NOISY, AbstractPrivate, Floats, Range
from aimer2.statistics.response import categories_against
from aimer2.statistics.statistic import Values

CLEAR = 3.0
"""The least eigenvalue of the information must be so many times the noise's spectral norm, which is about σ√(2p)."""

_LONGEST = 2.0
"""Of a Newton step, in scaled columns: a noisy information must not throw it far away."""

_LARGEST = 1e3
"""A coefficient that a site takes from the coordinator, in scaled columns; all steps together go no further than 40."""


@final
@dataclass(frozen=True, kw_only=True)
class PrivateGlm(AbstractPrivate):
    """``steps``: of a logistic regression; each costs as much as a whole linear regression."""

    family: Literal["gaussian", "binomial"] = "gaussian"
    steps: Annotated[int, Field(ge=2, le=20)] = 5

    def faults(self) -> Iterator[str]:
        yield from self.unbounded([feature for feature in self.features if self.family == "gaussian" or feature.name != self._outcome])
        if len(self.parsed.response) != 1 or self.parsed.survival or not self.parsed.intercept:
            yield "private_glm has one response and an intercept: write 'y ~ …'"
            return
        yield from categories_against(self.parsed, self.features, self.family)
        if self.family == "binomial" and self.rounds < self.steps:
            yield f"{self.steps} steps need as many `rounds`"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if frame.counted() < disclosure.patients_per_parameter * self._width:
            yield f"{self._width} coefficients are too many for the patients here"

    @property
    def releases(self) -> int:
        return 1 if self.family == "gaussian" else self.steps

    @property
    def reach(self) -> float:
        """The intercept, each scaled number, and one of a category's columns are at most 1: so a row's squared length is at most one more than there
        are variables, and that of its products as much again, squared."""
        most = 1 + len(self.parsed.terms)
        return float(most + 1) if self.family == "gaussian" else float(np.sqrt(most + most**2 / 16))

    def look(self, values: Values) -> None:
        beta = values.get("beta", np.zeros(self._width))
        if beta.shape != (self._width,) or not (np.abs(beta) <= _LARGEST).all():
            raise BadUpdate("The coefficients that the coordinator sent are none that this question comes to.")

    def told(self, values: Values) -> Values:
        """Nothing but the coefficients."""
        return {name: values[name] for name in ("beta",) if name in values}

    def parts(self, values: Values, rows: Frame) -> Floats:
        there = rows.complete(self.parsed.columns)
        x, y = self._matrix(there), there.columns[self._outcome]
        if self.family == "gaussian":
            return _triangle(np.column_stack([x, self._outcome_range.scaled(y)]))
        # the logistic function without an exponential that overflows
        mean = (1 + np.tanh(x @ (values["beta"] if "beta" in values else np.zeros(self._width)) / 2)) / 2
        outcome = np.clip(y, 0.0, 1.0)
        return np.concatenate([x * (outcome - mean)[:, None], _triangle(x * np.sqrt(mean * (1 - mean))[:, None])], axis=1)

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        told, width = total[NOISY] * self.reach, self._width
        if self.family == "gaussian":
            return {"sites": total["sites"], "products": _square(told, width + 1)}, True
        information, score = _square(told[width:], width), told[:width]
        beta = values["beta"] if "beta" in values else np.zeros(width)
        eigenvalues, vectors = np.linalg.eigh(information)
        least = max(self.spread(total), 1e-12)
        move = vectors @ (vectors.T @ score / np.maximum(eigenvalues, least))
        move *= min(1.0, _LONGEST / max(float(np.linalg.norm(move)), 1e-300))
        return {"sites": total["sites"], "beta": beta + move, "information": information}, round_number >= self.releases

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        noise, width = self.spread(values), self._width
        information = values["products"][:width, :width] if self.family == "gaussian" else values["information"]
        facts: dict[str, Cell] = {"family": self.family, "sites": int(values["sites"][0]), "noise": noise, "level": self.level}
        if float(np.linalg.eigvalsh(information)[0]) < CLEAR * noise * np.sqrt(2 * width):
            note = "The noise is as large as what these patients tell of the coefficients. Ask for a larger ε, fewer columns, or more patients."
            return [Table(analysis=name, method=self.name, title="No answer", columns=("term",), rows=(), facts=facts, notes=(note,))]
        scaled, covariance = self._linear(values["products"], noise) if self.family == "gaussian" else self._logistic(values, noise)
        back, shift = self._back()
        fit = Fit(
            names=self._design.names,
            estimates=back @ scaled + shift,
            covariance=back @ covariance @ back.T,
            aliased=np.zeros(width, bool),
            freedom=None,
            level=self.level,
            ratio="odds_ratio" if self.family == "binomial" else "",
        )
        note = "Errors and intervals hold the noise that was added for privacy, besides chance."
        return [coefficients(fit, analysis=name, method=self.name, facts=facts, notes=[note])]

    def _linear(self, products: Floats, noise: float) -> tuple[Floats, Floats]:
        m, c, squares = products[:-1, :-1], products[:-1, -1], float(products[-1, -1])
        inverse = np.linalg.inv(m)
        b = inverse @ c
        variance = max(squares - float(c @ b), 0.0) / max(float(m[0, 0]) - len(b), 1.0)
        of_noise = noise**2 / 2 * ((1 + b @ b) * np.eye(len(b)) + np.outer(b, b))
        covariance = np.asarray(variance * inverse + inverse @ of_noise @ inverse, np.float64)
        return np.asarray(b, np.float64), covariance

    def _logistic(self, values: Values, noise: float) -> tuple[Floats, Floats]:
        inverse = np.linalg.inv(values["information"])
        covariance = np.asarray(inverse + noise**2 * inverse @ inverse, np.float64)
        return values["beta"], covariance

    @property
    def _outcome(self) -> str:
        return self.parsed.response[0].name if self.parsed.response else ""

    @property
    def _outcome_range(self) -> Range:
        return Range.of(next(feature for feature in self.features if feature.name == self._outcome))

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features)

    @property
    def _width(self) -> int:
        return len(self._design.columns)

    @property
    def _ranges(self) -> list[Range | None]:
        """Of each column of the design; None for the intercept and for categories."""
        listed = {feature.name: feature for feature in self.features}
        found: list[Range | None] = []
        for column in self._design.columns:
            is_number = column.parts and column.parts[0][1] is None
            found.append(Range.of(listed[column.parts[0][0].name]) if is_number else None)
        return found

    def _matrix(self, rows: Frame) -> Floats:
        made = self._design.matrix(rows)
        for place, scale in enumerate(self._ranges):
            if scale is not None:
                made[:, place] = scale.scaled(made[:, place])
        return made

    def _back(self) -> tuple[Floats, Floats]:
        """From coefficients of scaled columns to those of the columns themselves: a matrix, and what is added."""
        width = self._width
        outcome = self._outcome_range if self.family == "gaussian" else Range(0.0, 1.0)
        back = np.eye(width) * outcome.half
        for place, scale in enumerate(self._ranges):
            if scale is not None:
                back[place, place] = outcome.half / scale.half
                back[0, place] = -outcome.half * scale.middle / scale.half
        shift = np.zeros(width)
        shift[0] = outcome.middle
        return back, shift


def _triangle(rows: Floats) -> Floats:
    """Of each row the products of its entries, each pair once: off the diagonal times √2, so that its length is the row's squared."""
    first, second = np.triu_indices(rows.shape[1])
    made: Floats = rows[:, first] * rows[:, second] * np.where(first == second, 1.0, np.sqrt(2))
    return made


def _square(triangle: Floats, width: int) -> Floats:
    first, second = np.triu_indices(width)
    made = np.zeros((width, width))
    made[first, second] = made[second, first] = triangle / np.where(first == second, 1.0, np.sqrt(2))
    return made


EXAMPLE = PrivateGlm(
    formula="y ~ x + g",
    features=(
        Feature(name="y", minimum=0, maximum=1),
        Feature(name="x", minimum=0, maximum=20),
        Feature(name="g", kind="category", categories=("a", "b")),
    ),
)
