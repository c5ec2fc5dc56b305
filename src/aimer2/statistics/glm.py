"""Generalised linear models: linear, logistic, Poisson, Gamma and negative binomial regression, equal to the pooled fit.

Nelder, Wedderburn 1972, "Generalized Linear Models": Fisher scoring, β ← β + (I + P)⁻¹(U − Pβ) with the score U = Σ w (y − μ) μ'/V · x and the
information I = Σ w μ'²/V · xxᵀ, sums over patients; P = ``ridge`` on the diagonal, but for the intercept. The first round finds the columns' means
and spreads, about which all sums are then taken; a step that does not lower the deviance is halved. It has converged when the step would change
the log-likelihood by less than 1e-18. With ``lasso`` λ a step minimises the same quadratic plus λ Σ|β| (proximal Newton: Lee, Sun, Saunders, SIAM
J. Optimization 24, 2014), by coordinate descent at the coordinator; with ``ridge`` besides it is the elastic net (Zou, Hastie 2005). A negative
binomial's α is estimated with the coefficients by Newton steps in log 1/α (Lawless 1987).

Errors: of the model, I⁻¹φ with φ = Pearson's χ² / (n − p) (1 but for Gaussian and Gamma); ``robust``, I⁻¹ (Σ uuᵀ) I⁻¹ over rows (Huber 1967,
White 1980); ``patients`` and ``sites``, the same over sums u of a patient's rows or of a whole site (Liang, Zeger 1986, with the factor
G/(G − 1) · (n − 1)/(n − p)). Tests are by t where φ is estimated, else by z.

With ``sites`` fixed each hospital has an intercept of its own, which it finds itself and tells nobody (`site_intercept`).

Leaves the site: ``size`` = rows, patients, sum of weights; ``sites`` = 1 where there is any row; ``moments`` = per column the sums of values
and squares (with an intercept of the hospital's own: squares about its means alone); ``start`` = sums of the response, of the offset and of its
exponential (with an own intercept none of these, but 1 where all outcomes are the same); ``score`` = per coefficient the derivative of the
log-likelihood; ``information`` = per pair of coefficients its second derivative; ``fit`` = sums of deviance, Pearson's χ² and log-likelihood;
``shape`` = of a negative binomial the derivatives by its shape; ``meat`` = for robust errors, the sum of squared parts of the score.
"""

from __future__ import annotations

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
from aimer2.statistics import distributions, families, site_intercept
from aimer2.statistics.design import Design, Floats, design, numbers, rare_outcome, too_few
from aimer2.statistics.estimates import Errors, Fit, Scale, coefficients, independent, inverse, meat, proximal_step
from aimer2.statistics.families import ESTIMATED_DISPERSION, LINKS, USUAL_LINKS, FamilyName, LinkName
from aimer2.statistics.response import categories_against, outcome
from aimer2.statistics.statistic import AbstractStatistic, Values

CONVERGED = 1e-18
_SEPARATED = 1e6
_MANY = 20
_RATIOS = {("binomial", "logit"): "odds_ratio", ("poisson", "log"): "rate_ratio", ("negative_binomial", "log"): "rate_ratio"}


@final
@dataclass(frozen=True, kw_only=True)
class Glm(AbstractStatistic):
    """``link`` empty: the usual one of the family. ``ridge``, ``lasso``: penalties, not of the intercept, in the columns' own units. ``alpha`` of a
    negative binomial, V = μ + αμ²; 0: estimated. ``sites``: one intercept for all, or one of each hospital. ``level`` of the intervals."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"sites", "meat"})
    crosses: ClassVar[bool] = True

    family: FamilyName = "gaussian"
    link: LinkName | Literal[""] = ""
    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    lasso: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    errors: Errors = "model"
    sites: Literal["pooled", "fixed"] = "pooled"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.survival or len(formula.response) != 1:
            yield "glm has one response: write 'y ~ …'"
            return
        if formula.strata or formula.cluster:
            yield "glm knows neither strata() nor cluster(); add C(centre) as a term, or set `errors`"
        if len(formula.offset) > 1 or len(formula.weights) > 1:
            yield "glm takes one offset() and one weights()"
        yield from categories_against(formula, self.features, self.family)
        if not self._design.columns:
            yield "there is no term to estimate"
        if self.lasso and self.errors != "model":
            yield "a lasso has no standard errors: leave out `errors`"
        if self.lasso and self._estimates_alpha:
            yield "a lasso of a negative binomial needs its `alpha`"
        if self._has_own and not formula.intercept:
            yield "with `sites` fixed each hospital has an intercept: leave out 0 and - 1"
        if self._has_own and (self.family, self._link) not in site_intercept.ONE_MAXIMUM:
            yield f"a hospital's own intercept is not one number with family {self.family} and link {self._link}: take the usual link"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        y = outcome(self.parsed, rows, self.family)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure, further=int(self._has_own))
        if self.family == "binomial":
            yield from rare_outcome(y, rows, disclosure)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        y, weight, offset = self._given(rows)
        is_apart = self._has_own and len(rows) > 0 and not site_intercept.is_finite(self.family, y, weight)
        if round_number == 1:
            return self._first(rows, is_apart=is_apart)
        if is_apart:
            rows = rows.at(np.zeros(len(rows), bool))
            y, weight, offset = self._given(rows)
        scaled = self._scale(values).apply(self._columns(rows, weight))
        alpha = float(values["alpha"][0])
        eta = scaled @ values["beta"] + offset
        link = LINKS[self._link]
        if self._has_own:
            eta += site_intercept.found(self.family, self._link, y, weight, eta, alpha)
        mean, slope = families.inside(self.family, link.mean(eta)), link.slope(eta)
        spread = families.variance(self.family, mean, alpha)
        if self._has_own:
            scaled = site_intercept.within(scaled, weight * slope**2 / spread)
        part = scaled * (weight * (y - mean) * slope / spread)[:, None]
        likely = families.likelihood(self.family, y, mean, alpha)
        deviance = weight @ families.deviance(self.family, y, mean, alpha)
        made = {
            "score": part.sum(axis=0),
            "information": scaled.T @ (scaled * (weight * slope**2 / spread)[:, None]),
            "fit": np.array([deviance, weight @ ((y - mean) ** 2 / spread), *(weight @ one for one in likely)]),
        }
        if self._estimates_alpha:
            made["shape"] = np.array([weight @ one for one in families.alpha_steps(y, mean, alpha)])
        if self.errors != "model":
            made["meat"] = meat(part, self.errors, rows.patients)
        return made

    def _first(self, rows: Frame, *, is_apart: bool) -> Values:
        y, weight, offset = self._given(rows)
        matrix = self._columns(rows, weight)
        start = [weight @ y, weight @ offset, weight @ np.exp(np.clip(offset, -40, 40))]
        return {
            "size": np.array([len(rows), rows.counted(), weight.sum()]),
            "sites": np.array([float(len(rows) > 0)]),
            "moments": np.array([0 * weight @ matrix if self._has_own else weight @ matrix, weight @ matrix**2]),
            "start": np.array([float(is_apart)] if self._has_own else start),
        }

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return self._begun(total), False
        beta, before, penalty = values["beta"], values["before"], self._penalty(values)
        deviance = float(total["fit"][0])
        objective = deviance + float(beta @ (penalty * beta)) if not self._estimates_alpha else -2 * float(total["fit"][2])
        objective += 2 * float(self._sparsity(values) @ np.abs(beta))
        if round_number > 2 and objective > values["objective"][0] + 1e-8 * (abs(values["objective"][0]) + 1e-30):
            return {**values, "beta": (beta + before) / 2}, False
        information, score = total["information"], total["score"] - penalty * beta
        curved = information + np.diag(penalty)
        if self.lasso:
            kept = np.ones(len(beta), bool)
            cover, move = np.zeros_like(curved), proximal_step(curved, score, beta, self._sparsity(values))
        else:
            kept = independent(information) if round_number == 2 else values["kept"] > 0
            cover = inverse(curved, kept)
            move = cover @ score
        dispersion = self._dispersion(total["fit"], values, kept)
        decrement = float(move @ curved @ move) / max(dispersion, np.finfo(np.float64).tiny)
        moved = {
            **values,
            "before": beta,
            "beta": beta + move,
            "kept": kept.astype(np.float64),
            "objective": np.array([objective]),
            "information": information,
            "fit": total["fit"],
            "meat": total.get("meat", np.zeros_like(information)),
        }
        if round_number == 2:
            moved |= {"null": total["fit"], "first": np.diag(cover).copy()}
        if self._estimates_alpha:
            moved["alpha"], further = _next_alpha(float(values["alpha"][0]), total["shape"])
            decrement += further
        separated = (np.diag(cover) > _SEPARATED * np.maximum(moved["first"], np.finfo(np.float64).tiny)).any()
        return moved | {"converged": np.array([float(decrement <= CONVERGED)])}, bool(decrement <= CONVERGED or separated)

    def _begun(self, total: Values) -> Values:
        weight = float(total["size"][2])
        if not weight > 0:
            raise BadUpdate("Nobody's data count: the weights add up to nothing.")
        design_of = self._design
        scale = Scale.of(weight, *total["moments"], has_intercept=design_of.has_intercept, centred=design_of.has_intercept)
        beta = np.zeros(len(design_of.columns))
        if design_of.has_intercept:
            response, offset, factor = total["start"]
            mean = families.inside(self.family, np.array([response / (factor if self._link == "log" else weight)]))
            beta[0] = LINKS[self._link].of(mean)[0] - (0.0 if self._link == "log" else offset / weight)
        return {
            "size": total["size"],
            "sites": total["sites"],
            "start": total["start"],
            "beta": beta,
            "before": beta,
            "centre": scale.centre,
            "spread": scale.spread,
            "alpha": np.array([self.alpha or 1.0]),
        }

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("beta", "centre", "spread", "alpha") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        kept, scale, penalty = values["kept"] > 0, self._scale(values), self._penalty(values)
        cover = inverse(values["information"] + np.diag(penalty), kept)
        rows, patients, weight = values["size"]
        freedom = weight - kept.sum() - self._apart(values)
        dispersion = self._dispersion(values["fit"], values, kept)
        if self.lasso:
            covariance = np.full_like(cover, np.nan)
        elif self.errors == "model":
            covariance = cover @ values["information"] @ cover * dispersion if self.ridge else cover * dispersion
        else:
            clusters = patients if self.errors == "patients" else values["sites"][0]
            covariance = cover @ values["meat"] @ cover * self._correction(clusters, rows, freedom)
        back = scale.back
        fit = Fit(
            names=self._design.names,
            estimates=back @ np.where(kept, values["beta"], 0.0),
            covariance=back @ covariance @ back.T,
            aliased=~kept,
            freedom=float(freedom) if self.family in ESTIMATED_DISPERSION else None,
            level=self.level,
            ratio=_RATIOS.get((self.family, self._link), ""),
        )
        facts = self._facts(values, kept, dispersion)
        return [coefficients(fit, analysis=name, method=self.name, facts=facts, notes=list(self._notes(values, kept, cover)))]

    def _correction(self, clusters: float, rows: float, freedom: float) -> float:
        if self.errors == "robust":
            return 1.0
        return clusters / (clusters - 1) * (rows - 1) / freedom if clusters > 1 and freedom > 0 else 1.0

    def _facts(self, values: Values, kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], dispersion: float) -> dict[str, Cell]:
        rows, patients, weight = values["size"]
        deviance, pearson, *likely = (float(value) for value in values["fit"])
        parameters = int((values["beta"] != 0).sum() if self.lasso else kept.sum()) + self._apart(values)
        freedom, ll = weight - parameters, families.log_likelihood(self.family, np.array(likely), weight, deviance)
        counted = parameters + (self.family in ESTIMATED_DISPERSION or self._estimates_alpha)
        facts: dict[str, Cell] = {
            "family": self.family,
            "link": self._link,
            "errors": "none" if self.lasso else self.errors,
            "rows": int(rows),
            "patients": int(patients),
            "parameters": parameters,
            "residual_freedom": number(float(freedom)),
            "log_likelihood": number(ll),
            "aic": number(2 * counted - 2 * ll),
            "bic": number(counted * float(np.log(weight)) - 2 * ll),
            "deviance": deviance,
            "pearson_chi2": pearson,
            "dispersion": number(dispersion),
        }
        if self._has_own:
            facts["intercepts_of_sites"] = self._apart(values)
        if self.family == "negative_binomial":
            facts["alpha"] = float(values["alpha"][0])
        if self._has_null:
            facts |= self._against_null(values, parameters, float(freedom), ll)
        return facts

    def _against_null(self, values: Values, parameters: int, freedom: float, ll: float) -> dict[str, Cell]:
        weight, deviance = float(values["size"][2]), float(values["fit"][0])
        null, *_ = (float(value) for value in values["null"])
        facts: dict[str, Cell] = {"null_deviance": null}
        least = self._apart(values) or 1
        more = parameters - least
        if self.family == "gaussian":
            within = "_within" if self._has_own else ""
            facts[f"r_squared{within}"] = number(1 - deviance / null) if null > 0 else None
            if more > 0 and freedom > 0 and deviance > 0 and not self.lasso:
                ratio = (null - deviance) / more / (deviance / freedom)
                facts |= {f"adjusted_r_squared{within}": 1 - deviance / null * (weight - least) / freedom, "f": ratio}
                facts["f_p"] = float(distributions.f_above(ratio, more, freedom))
        elif more > 0 and not self._estimates_alpha and not self.ridge and not self.lasso:
            chi = 2 * (ll - families.log_likelihood(self.family, values["null"][2:], weight, null)) if self.family != "gamma" else None
            if chi is not None:
                facts |= {"likelihood_ratio_chi2": chi, "likelihood_ratio_p": float(distributions.chi_squared_above(chi, more))}
        return facts

    def _notes(self, values: Values, kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], cover: Floats) -> Iterator[str]:
        names = np.array(self._design.names)
        if not kept.all():
            why = "collinear, the same at each hospital, or nobody has the category" if self._has_own else "collinear, or nobody has the category"
            yield f"these follow from the terms before them ({why}) and have no estimate: {', '.join(names[~kept])}"
        apart = kept & (np.diag(cover) > 1e4 * np.maximum(values["first"], np.finfo(np.float64).tiny))
        if apart.any() and not self.lasso:
            told = ", ".join(name for name in names[apart] if name != "intercept") or "the intercept"
            yield f"separation: the outcome follows from {told}, so no finite estimate exists; a ridge penalty gives one"
        if not values["converged"][0]:
            yield f"it has not converged in {self.rounds} rounds: do not use these estimates"
        if self.lasso:
            yield "a lasso chooses its terms by the data: they have no standard errors; parameters are the terms that are not 0"
        if self.ridge:
            yield f"penalised by {self.ridge:g}/2 times the sum of squared coefficients: estimates are drawn towards 0, and intervals lie about these"
        if self._has_own:
            yield from self._of_own(values)
        if self.errors == "sites" and values["sites"][0] < 20:
            yield f"errors over {int(values['sites'][0])} sites: fewer than about twenty make them too small"

    def _of_own(self, values: Values) -> Iterator[str]:
        sites, alike = self._apart(values), int(values["start"][0])
        yield "each site has an intercept of its own, which stays there; tests, and what is explained, are within sites"
        if alike:
            yield f"of {sites} sites {alike} have one outcome alone, and say nothing of these terms"
        if self.family not in ("gaussian", "poisson") and values["size"][0] < _MANY * sites:
            yield f"fewer than {_MANY} rows at a site on average: intercepts of so small sites make estimates too large"

    @property
    def _has_own(self) -> bool:
        return self.sites == "fixed"

    def _apart(self, values: Values) -> int:
        """How many intercepts of sites there are."""
        return int(values["sites"][0]) if self._has_own else 0

    @property
    def _link(self) -> LinkName:
        return self.link or USUAL_LINKS[self.family]

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features, intercept=not self._has_own)

    @property
    def _estimates_alpha(self) -> bool:
        return self.family == "negative_binomial" and self.alpha == 0

    @property
    def _has_null(self) -> bool:
        """Whether the first step starts at the model of the intercept alone."""
        usual = self._has_own or not self.parsed.offset or (self.family, self._link) in (("gaussian", "identity"), ("poisson", "log"))
        return self.parsed.intercept and usual and not self._estimates_alpha

    def _scale(self, values: Values) -> Scale:
        return Scale(values["centre"], values["spread"], self._design.has_intercept)

    def _penalty(self, values: Values) -> Floats:
        penalty = self.ridge / values["spread"] ** 2
        if self._design.has_intercept:
            penalty[0] = 0.0
        return penalty

    def _sparsity(self, values: Values) -> Floats:
        """What a unit of each scaled coefficient costs by the lasso."""
        cost = self.lasso / values["spread"]
        if self._design.has_intercept:
            cost[0] = 0.0
        return np.asarray(cost)

    def _dispersion(self, fit: Floats, values: Values, kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
        freedom = float(values["size"][2] - kept.sum() - self._apart(values))
        return float(fit[1]) / freedom if self.family in ESTIMATED_DISPERSION and freedom > 0 else 1.0

    def _given(self, rows: Frame) -> tuple[Floats, Floats, Floats]:
        """Outcome, weight and offset of each row ``(n,)``."""
        return outcome(self.parsed, rows, self.family), self._weight(rows), self._offset(rows)

    def _columns(self, rows: Frame, weight: Floats) -> Floats:
        matrix = self._design.matrix(rows)
        return site_intercept.within(matrix, weight) if self._has_own else matrix

    def _weight(self, rows: Frame) -> Floats:
        """Raises BadData for a weight below 0."""
        if not self.parsed.weights:
            return np.ones(len(rows))
        weight = numbers(self.parsed.weights[0], rows)
        if (weight < 0).any():
            raise BadData(say("{weights} has weights below 0.", weights=self.parsed.weights[0]))
        return weight

    def _offset(self, rows: Frame) -> Floats:
        return numbers(self.parsed.offset[0], rows) if self.parsed.offset else np.zeros(len(rows))


def _next_alpha(alpha: float, shape: Floats) -> tuple[Floats, float]:
    """A Newton step in log θ, at most to a factor of e², and by how much it would change twice the log-likelihood."""
    first, second = shape
    move = first / -second if second < 0 else np.sign(first)
    limited = float(np.clip(move, -2.0, 2.0))
    return np.array([np.clip(alpha * np.exp(-limited), 1e-8, 1e8)]), abs(float(first * limited))


EXAMPLE = Glm(formula="y ~ x1 + C(g)", features=(Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))))
