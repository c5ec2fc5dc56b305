"""How much privacy has been spent: the ε of everything that was ever released of a data set, at its δ.

Neighbouring data sets differ by one patient who is there or not (add or remove one), and nothing else is offered: a patient's largest part
in a sum stands in the mechanism's noise. The answer is by privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), rounded up;
Rényi differential privacy (Mironov 2017) checks it. Both are those of the library dp-accounting (extra `accounting`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, final, get_args

import absl.logging
import numpy as np
import numpy.typing as npt
from dp_accounting import DpEvent, GaussianDpEvent, LaplaceDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from dp_accounting.rdp import rdp_privacy_accountant

from aimer2.core.errors import AimerError, BadInput
from aimer2.core.said import say
from aimer2.privacy import skellam as noise

Kind: TypeAlias = Literal["gaussian", "laplace", "skellam", "subsampled_gaussian"]
PARAMETERS: Mapping[Kind, tuple[str, ...]] = {
    "gaussian": ("noise_multiplier",),
    "laplace": ("scale",),
    "skellam": ("variance", "l1", "l2"),
    "subsampled_gaussian": ("sampling_rate", "noise_multiplier"),
}

INTERVAL = 1e-3
"""The step of privacy loss distributions by which decisions are made; losses are rounded up to it."""

_FINEST = 100
"""Into how many parts at most a step is divided for what loses little at a time."""

_FAR = 100.0
"""Past this ε no distribution is made: it would be huge, and no budget is."""

_ORDERS = np.array([order for order in rdp_privacy_accountant.DEFAULT_RDP_ORDERS if order >= 1.5])
"""The library's, less those that give the smallest ε only where it is past 100, and that often do not converge."""


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """One mechanism, used ``count`` times on a data set. Made by the functions of its kinds' names, below.

    Raises BadInput where the parameters are not those of the kind, or out of range.
    """

    kind: Kind
    parameters: Mapping[str, float]
    count: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or set(self.parameters) != set(PARAMETERS[self.kind]):
            raise BadInput("No mechanism has this kind and these parameters.")
        if not all(0 < value < math.inf for value in self.parameters.values()) or self.parameters.get("sampling_rate", 1) > 1:
            raise BadInput(say("A parameter of the mechanism {kind} is out of range.", kind=self.kind))
        if self.count < 1:
            raise BadInput(say("The mechanism {kind} was used {count} times.", kind=self.kind, count=self.count))

    def document(self) -> dict[str, Any]:
        """Plain JSON, for a ledger."""
        return {"kind": self.kind, "parameters": dict(self.parameters), "count": self.count}

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> Spent:
        """Raises BadInput for what ``document`` never wrote."""
        try:
            parameters = {str(name): float(value) for name, value in document["parameters"].items()}
            return Spent(document["kind"], parameters, int(document["count"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadInput("This does not describe a mechanism.") from None


def gaussian(noise_multiplier: float, count: int = 1) -> Spent:
    """Gaussian noise of ``noise_multiplier`` times a patient's (or site's) largest L2 norm."""
    return Spent("gaussian", {"noise_multiplier": noise_multiplier}, count)


def laplace(scale: float, count: int = 1) -> Spent:
    """Laplace noise of ``scale`` times a patient's largest L1 norm."""
    return Spent("laplace", {"scale": scale}, count)


def skellam(variance: float, l1: float, l2: float, count: int = 1) -> Spent:
    """Skellam noise of this variance on whole numbers, of which a patient's largest part has these L1 and L2 norms."""
    return Spent("skellam", {"variance": variance, "l1": l1, "l2": l2}, count)


def subsampled_gaussian(sampling_rate: float, noise_multiplier: float, steps: int) -> Spent:
    """Steps of DP-SGD, each on patients drawn with this probability by nobody but the site (Poisson sampling; who knows the draw knows more)."""
    return Spent("subsampled_gaussian", {"sampling_rate": sampling_rate, "noise_multiplier": noise_multiplier}, steps)


@final
class Accountant:
    """What has been spent, composed once, so that the question whether one more study fits takes milliseconds.

    Entries compose in their order: the same list gives the same bits, whether it came at once or one by one.
    """

    SLACK: ClassVar[float] = 0.01

    __slots__ = ("_entries", "_interval", "_losses", "_renyi")

    def __init__(self, spent: Sequence[Spent] = (), *, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._entries = 0
        self._renyi: npt.NDArray[np.float64] = np.zeros(len(_ORDERS))
        self._losses: Any = privacy_loss_distribution.identity(interval)
        for one in spent:
            self.add(one)

    def add(self, spent: Spent) -> None:
        """Spends it for good."""
        self._renyi, self._losses = self._with(spent)
        self._entries += 1

    def epsilon(self, delta: float, further: Sequence[Spent] = ()) -> float:
        """ε of all that was added and of what might be, which is not kept; what is past 100 only roughly.

        Both ways of accounting give an upper bound, of which the smaller is told: that by distributions, unless very many entries of very little
        loss each were rounded up.

        With Skellam noise among it, whose privacy loss is not known exactly, ε is by Rényi's bound alone.

        Raises BadInput unless 0 < δ < 1; AimerError where the two ways of accounting contradict each other.
        """
        if not 0 < delta < 1:
            raise BadInput("δ is not between 0 and 1.")
        whole = self
        if further:
            whole = Accountant(interval=self._interval)
            whole._renyi, whole._losses, whole._entries = self._renyi, self._losses, self._entries
            for spent in further:
                whole.add(spent)
        rough = _by_renyi(whole._renyi, delta)
        if whole._losses is None or rough > _FAR:
            return rough
        fine = float(whole._losses.get_epsilon_for_delta(delta))
        # Rounding spreads an entry's loss by at most half a step, so that of n entries by √n times that; this many deviations reach to any δ in use.
        rounding = 4 * self._interval * math.sqrt(whole._entries)
        if fine > rough * (1 + self.SLACK) + self.SLACK + rounding:
            raise AimerError("Two ways to account for the privacy spent contradict each other; nothing may be released by either.")
        return min(fine, rough)

    def _with(self, spent: Spent) -> tuple[npt.NDArray[np.float64], Any]:
        renyi = self._renyi + spent.count * _renyi(*_key(spent))
        if self._losses is None or spent.kind == "skellam" or _by_renyi(renyi, 1e-5) > _FAR:
            return renyi, None
        return renyi, self._losses.compose(_losses(*_key(spent), spent.count, self._interval))


def epsilon(spent: Sequence[Spent], delta: float, *, interval: float = INTERVAL) -> float:
    """ε of all these mechanisms together."""
    return Accountant(spent, interval=interval).epsilon(delta)


def epsilon_by_renyi(spent: Sequence[Spent], delta: float) -> float:
    """The same by Rényi differential privacy alone: never smaller, but for rounding."""
    divergences = np.zeros(len(_ORDERS))
    for one in spent:
        divergences += one.count * _renyi(*_key(one))
    return _by_renyi(divergences, delta)


def noise_multiplier_for(epsilon: float, delta: float, sampling_rate: float, steps: int, further: Sequence[Spent] = ()) -> float:
    """The smallest noise multiplier, up to 0.1 %, by which that many steps of DP-SGD keep to ε at δ together with what is spent ``further``.

    With a sampling rate of 1 it is plain Gaussian noise. Raises BadInput for an ε that is not between 0.01 and 100 (finer than the accounting, or
    no privacy), and where what is spent further reaches it alone.
    """
    if not 0.01 <= epsilon <= _FAR:
        raise BadInput("ε is not between 0.01 and 100.")
    others = Accountant(further)
    if further and others.epsilon(delta) >= epsilon:
        raise BadInput("What is spent beside the training reaches ε alone.")

    low, high, noise, slope = 0.0, math.inf, 1.0, 1.0
    before: tuple[float, float] | None = None
    while True:
        told = others.epsilon(delta, [subsampled_gaussian(sampling_rate, noise, steps)])
        low, high = (low, noise) if told <= epsilon else (noise, high)
        if high / max(low, 1e-6) <= 1.001 or epsilon * 0.999 <= told <= epsilon:
            return high
        if low > 1e6:
            raise BadInput("What is spent beside the training leaves nothing of ε for it.")
        if before is not None and 0 < told < 1e3 and 0 < before[1] < 1e3:
            slope = min(max(math.log(told / before[1]) / math.log(before[0] / noise), 0.3), 5.0)
        before = noise, told
        # ε falls as about a power of the noise, so that a few steps along it lead there; where one leads astray, the interval is halved.
        wanted = noise * min(max(told / (epsilon * 0.9995), 0.25), 4.0) ** (1 / slope)
        noise = wanted if low < wanted < high else (math.sqrt(low * high) if high < math.inf else 2 * low)


def _key(spent: Spent) -> tuple[Kind, tuple[float, ...]]:
    return spent.kind, tuple(spent.parameters[name] for name in PARAMETERS[spent.kind])


def _event(kind: Kind, values: tuple[float, ...]) -> DpEvent:
    if kind == "laplace":
        return LaplaceDpEvent(values[0])
    if kind == "gaussian":
        return GaussianDpEvent(values[0])
    return PoissonSampledDpEvent(values[0], GaussianDpEvent(values[1]))


@lru_cache(maxsize=1024)
def _renyi(kind: Kind, values: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The Rényi divergences of one use, at each order; infinite where the computation does not converge."""
    if kind == "skellam":
        return np.array([noise.renyi(order, *values) for order in _ORDERS])
    accountant = rdp_privacy_accountant.RdpAccountant(_ORDERS)
    with _without_warnings():
        result: npt.NDArray[np.float64] = accountant.compose(_event(kind, values)).rdp
    return result


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """The library warns of each order that it leaves out; that only makes a bound less tight."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _by_renyi(divergences: npt.NDArray[np.float64], delta: float) -> float:
    return float(rdp_privacy_accountant.compute_epsilon(_ORDERS, divergences, delta)[0])


@lru_cache(maxsize=64)
def _losses(kind: Kind, values: tuple[float, ...], count: int, interval: float) -> Any:
    """The privacy loss distribution of ``count`` uses; composed at a finer step where one use loses less than a few steps, then brought to this."""
    if kind == "laplace":
        rate, multiplier = 1.0, values[0]
        spread = 1 / multiplier
    elif kind == "subsampled_gaussian" and values[0] < 1:
        rate, multiplier = values
        spread = rate * math.sqrt(math.expm1(min(multiplier**-2, 100)))
    else:
        # Gaussians compose to one, exactly.
        rate, multiplier, count = 1.0, values[-1] / math.sqrt(count), 1
        spread = 1 / multiplier
    # As far as ten deviations of the noise take the loss, at no more than 10^5 steps: how long this takes, and how much memory.
    reach = math.log1p(rate * math.expm1(min(10 / multiplier + 0.5 / multiplier**2, 100)))
    times = max(min(math.ceil(3 * interval / spread), _FINEST, int(1e5 * interval / reach)), 1)
    if kind == "laplace":
        one = privacy_loss_distribution.from_laplace_mechanism(values[0], value_discretization_interval=interval / times)
    else:
        one = privacy_loss_distribution.from_gaussian_mechanism(multiplier, value_discretization_interval=interval / times, sampling_prob=rate)
    composed = one.self_compose(count)
    return composed if times == 1 else _coarser(composed, times, interval)


def _coarser(losses: Any, times: int, interval: float) -> Any:
    """The distribution on a grid so many times as coarse: each mass goes to its two neighbours so that it and its mass under the other data set stay.

    By convexity that only adds to every δ(ε) (Doroshenko et al. 2022, connect the dots).
    """

    def half(masses: Any) -> Any:
        dense = masses.to_dense_pmf()
        below, rest = np.divmod(dense._lower_loss + np.arange(dense.size), times)
        upper = np.expm1(-rest * (interval / times)) / math.expm1(-interval)
        first, size = int(below[0]), int(below[-1] - below[0]) + 2
        moved = np.bincount(below - first, dense._probs * (1 - upper), size) + np.bincount(below - first + 1, dense._probs * upper, size)
        return pld_pmf.DensePLDPmf(interval, first, moved, dense._infinity_mass, True)

    return privacy_loss_distribution.PrivacyLossDistribution(half(losses._pmf_remove), None if losses._symmetric else half(losses._pmf_add))
