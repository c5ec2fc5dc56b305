"""Exponential families and links of generalised linear models: McCullagh and Nelder 1989, "Generalized Linear Models", tables 2.1 and 2.2.

Each row has a linear predictor η, a mean μ with g(μ) = η, and a variance φ·V(μ). Everything here is a plain function of arrays; a site evaluates
it on its rows, the coordinator on sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats: TypeAlias = NDArray[np.float64]
FamilyName: TypeAlias = Literal["gaussian", "binomial", "poisson", "gamma", "negative_binomial"]
LinkName: TypeAlias = Literal["identity", "logit", "log", "probit", "cloglog", "inverse"]

_STEEPEST = 40.0
"""Largest |η| behind an exponential: e^40 patients are more than there are, and sums in secret have room for it."""

_EDGE = 1e-12


@final
@dataclass(frozen=True, slots=True)
class Link:
    """``mean`` μ of η, its ``slope`` dμ/dη, and η ``of`` a mean."""

    mean: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    of: Callable[[Floats], Floats]


def _exp(eta: Floats) -> Floats:
    return np.exp(np.clip(eta, -_STEEPEST, _STEEPEST))


def _density(eta: Floats) -> Floats:
    return np.asarray(np.exp(-np.minimum(eta**2, 2 * _STEEPEST) / 2) / np.sqrt(2 * np.pi))


def _logistic_slope(eta: Floats) -> Floats:
    mean: Floats = special.expit(np.clip(eta, -_STEEPEST, _STEEPEST))
    slope: Floats = mean * special.expit(-np.clip(eta, -_STEEPEST, _STEEPEST))
    return slope


def _apart_from_zero(eta: Floats) -> Floats:
    return np.where(np.abs(eta) < _EDGE, _EDGE, eta)


LINKS: Mapping[LinkName, Link] = {
    "identity": Link(lambda eta: eta, np.ones_like, lambda mean: mean),
    "logit": Link(lambda eta: special.expit(np.clip(eta, -_STEEPEST, _STEEPEST)), _logistic_slope, special.logit),
    "log": Link(_exp, _exp, np.log),
    "probit": Link(special.ndtr, _density, special.ndtri),
    "cloglog": Link(
        lambda eta: -np.expm1(-np.exp(np.clip(eta, -_STEEPEST, 4.0))),
        lambda eta: np.exp(np.clip(eta, -_STEEPEST, 4.0) - np.exp(np.clip(eta, -_STEEPEST, 4.0))),
        lambda mean: np.log(-np.log1p(-mean)),
    ),
    "inverse": Link(lambda eta: 1 / _apart_from_zero(eta), lambda eta: -1 / _apart_from_zero(eta) ** 2, lambda mean: 1 / mean),
}

USUAL_LINKS: Mapping[FamilyName, LinkName] = {
    "gaussian": "identity",
    "binomial": "logit",
    "poisson": "log",
    "gamma": "log",
    "negative_binomial": "log",
}

ESTIMATED_DISPERSION = frozenset({"gaussian", "gamma"})
"""Families whose φ is estimated; of the others it is 1."""


def inside(family: FamilyName, mean: Floats) -> Floats:
    """A mean kept inside its range, where a link does not keep it there by itself."""
    if family == "binomial":
        return np.clip(mean, _EDGE, 1 - _EDGE)
    return mean if family == "gaussian" else np.maximum(mean, _EDGE)


def variance(family: FamilyName, mean: Floats, alpha: float) -> Floats:
    """V(μ); ``alpha``: of the negative binomial, V = μ + αμ²."""
    match family:
        case "gaussian":
            return np.ones_like(mean)
        case "binomial":
            return mean * (1 - mean)
        case "poisson":
            return mean
        case "gamma":
            return mean**2
    return mean + alpha * mean**2


def deviance(family: FamilyName, y: Floats, mean: Floats, alpha: float) -> Floats:
    """Each row's part of the deviance."""
    match family:
        case "gaussian":
            return np.asarray((y - mean) ** 2)
        case "binomial":
            return np.asarray(2 * (_times_log(y, y / mean) + _times_log(1 - y, (1 - y) / (1 - mean))))
        case "poisson":
            return np.asarray(2 * (_times_log(y, y / mean) - (y - mean)))
        case "gamma":
            return np.asarray(2 * ((y - mean) / mean - np.log(y / mean)))
    return np.asarray(2 * (_times_log(y, y / mean) - (y + 1 / alpha) * np.log((1 + alpha * y) / (1 + alpha * mean))))


def likelihood(family: FamilyName, y: Floats, mean: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Two sums of each row from which `log_likelihood` is made, however large φ is."""
    match family:
        case "gaussian":
            return np.zeros_like(y), np.zeros_like(y)
        case "binomial":
            return np.asarray(special.xlogy(y, mean) + special.xlog1py(1 - y, -mean)), np.zeros_like(y)
        case "poisson":
            return np.asarray(special.xlogy(y, mean) - mean - special.gammaln(y + 1)), np.zeros_like(y)
        case "gamma":
            return np.log(y), np.asarray(np.log(y / mean) - y / mean)
    theta = 1 / alpha
    constant = special.gammaln(y + theta) - special.gammaln(theta) - special.gammaln(y + 1) + theta * np.log(theta)
    return np.asarray(constant + special.xlogy(y, mean) - (y + theta) * np.log(mean + theta)), np.zeros_like(y)


def log_likelihood(family: FamilyName, sums: Floats, weight: float, deviance_sum: float) -> float:
    """Of the two sums. φ is put at its most likely value of a Gaussian, at deviance / n of a Gamma, as R does."""
    if family == "gaussian":
        return float(-weight / 2 * (np.log(2 * np.pi * deviance_sum / weight) + 1)) if deviance_sum > 0 else float("inf")
    if family == "gamma":
        shape = weight / deviance_sum if deviance_sum > 0 else float("inf")
        return float(weight * (shape * np.log(shape) - special.gammaln(shape)) + shape * sums[1] - sums[0])
    return float(sums[0])


def alpha_steps(y: Floats, mean: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Of the negative binomial each row's first and second derivative of the log-likelihood by log θ, θ = 1/α (Lawless 1987)."""
    theta = 1 / alpha
    both = mean + theta
    first = special.psi(y + theta) - special.psi(theta) + np.log(theta) + 1 - np.log(both) - (y + theta) / both
    second = special.polygamma(1, y + theta) - special.polygamma(1, theta) + 1 / theta - 2 / both + (y + theta) / both**2
    return np.asarray(theta * first), np.asarray(theta**2 * second + theta * first)


def _times_log(factor: Floats, inner: Floats) -> Floats:
    """factor · log(inner), 0 where the factor is 0."""
    found: Floats = special.xlogy(factor, np.where(factor == 0, 1.0, inner))
    return found
