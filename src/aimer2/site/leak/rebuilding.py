"""Records rebuilt from updates of different sizes, through each pair of eyes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.attacks.inversion import CLOSE, Floats, Outcome, first_layer, judge, ratios
from aimer2.core import tree
from aimer2.core.said import mark
from aimer2.core.tree import Tree
from aimer2.core.update import Update, total
from aimer2.site.leak.findings import Attempt, Cell, Example, Level, View
from aimer2.site.leak.hospitals import Hospitals, Rows, deal
from aimer2.site.leak.view import garbled

MOST_STEPS = 16
"""Training steps of all hospitals in a sum that a search replays; larger updates are read off the first layer alone."""

MOST_PARAMETERS = 1_000_000

MOST_UPDATES = 4
"""Of one size that are attacked where each is searched."""

SECONDS = 15.0
"""Of the processor, for all searches together; later updates are read off the first layer alone."""

STEPS = 100

_SHOWN_FEATURES = 12
_REPLAYED = ("binary", "multiclass", "regression")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """From the numbers that a model sees back to the column's own unit: ``shift + unit * x``."""

    names: tuple[str, ...]
    shift: Floats
    unit: Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What an attacker has in hand of one update, and the rows that are in it: the hospital's own first."""

    view: View
    difference: Tree
    parts: Sequence[Rows]


@final
@dataclass(slots=True, eq=False)
class Rebuilding:
    """The attacks of `aimer2.attacks` on what stand-in hospitals send in the first round. ``private``: the same hospitals with the study's
    privacy noise; ``module``: the study's torch module, to search with."""

    hospitals: Hospitals
    private: Hospitals | None
    initial: Tree
    sites: int
    scale: Scale
    module: Any
    rng: np.random.Generator
    spent: Callable[[], float]
    notes: list[str]
    example: Example | None = None
    _searching: float = 0.0
    _least: float = field(default=CLOSE)

    @property
    def _features(self) -> npt.NDArray[Any]:
        return np.asarray(self.hospitals.samples.features)

    def level(self, size: int, most: int) -> Level:
        """Updates of ``size`` records each, until ``most`` records were attacked."""
        rows = len(self.hospitals.samples)
        searched = self._can_search(size)
        wanted = max(1, min(most, rows) // size)
        updates = min(wanted, MOST_UPDATES) if searched else wanted
        order = self.rng.permutation(rows)
        outcomes: dict[View, list[Outcome]] = {}
        done = 0
        while done < updates and (done == 0 or not searched or self._searching < SECONDS):
            self._attack(order[done * size : (done + 1) * size], searched, outcomes)
            done += 1
        attempts = tuple(_attempt(name, found) for name, found in outcomes.items())
        return Level(records=size, updates=done, steps=self.hospitals.steps(size), searched=searched, attempts=attempts)

    def _attack(self, own: Rows, searched: bool, outcomes: dict[View, list[Outcome]]) -> None:
        found: dict[View, Outcome] = {}
        for seen in self._views(own):
            candidates = self._candidates(seen, searched)
            found[seen.view] = judge(candidates, self._features[own], self._features, self.rng)
            outcomes.setdefault(seen.view, []).append(found[seen.view])
        self._show(own, found)

    def _views(self, own: Rows) -> Iterator[_Seen]:
        """All that are of interest for this study."""
        parts = [own, *deal(len(self.hospitals.samples), len(own), self.sites, self.rng)[1:]]
        updates = [self.hospitals.first_update(self.initial, rows, number) for number, rows in enumerate(parts)]
        yield _Seen("alone", updates[0].sums["difference"], parts[:1])
        yield _Seen("masked", garbled(updates[0].sums, self.sites)["difference"], parts[:1])
        yield _Seen("sum", _sum(updates), parts)
        if self.private is not None:
            noisy = [self.private.first_update(self.initial, rows, number) for number, rows in enumerate(parts)]
            yield _Seen("noisy", noisy[0].sums["difference"], parts[:1])
            yield _Seen("noisy-sum", _sum(noisy), parts)

    def _candidates(self, seen: _Seen, searched: bool) -> Floats:
        shape = self.hospitals.samples.feature_shape
        layer = first_layer(seen.difference, shape)
        read = np.empty((0, int(np.prod(shape)))) if layer is None else ratios(layer)
        # one record is read off exactly; noise under masks has no records whose training would give it
        if not searched or seen.view == "masked" or (layer is not None and len(seen.parts) == 1 == len(seen.parts[0])):
            return read
        matching = importlib.import_module("aimer2.attacks.torch_matching")  # loaded by name: studies without torch need none
        began = self.spent()
        found = matching.match(self.module, self.initial, seen.difference, self._training(matching, seen), layer, self.rng, steps=STEPS)
        self._searching += self.spent() - began
        return np.concatenate([read, found])

    def _training(self, matching: Any, seen: _Seen) -> Any:
        hospitals, training = self.hospitals, self.hospitals.study.training
        size = len(seen.parts[0])
        flat = self._features.reshape(len(hospitals.samples), -1)
        orders = [[batch + size * number for batch in hospitals.order(size, number)] for number in range(len(seen.parts))]
        return matching.Training(
            kind=hospitals.study.cohort.target.kind,
            hospitals=orders,
            targets=hospitals.samples.targets[np.concatenate(seen.parts)],
            feature_shape=hospitals.samples.feature_shape,
            centre=flat.mean(axis=0),
            spread=flat.std(axis=0),
            learning_rate=hospitals.learning_rate(),
            momentum=training.momentum if training.optimiser == "sgd" else 0.0,
            weight_decay=training.weight_decay,
            plain_descent=training.optimiser == "sgd",
        )

    def _can_search(self, size: int) -> bool:
        if self.module is None or self.hospitals.study.cohort.target.kind not in _REPLAYED:
            return False
        if not self.initial.keys() <= self.hospitals.first_update(self.initial, np.arange(size), 0).sums["difference"].keys():
            self.notes.append(mark("The method sends parts of the model, or factors of it; updates are read off the first layer alone."))
            return False
        parameters = sum(tree.size(leaf) for leaf in self.initial.values())
        if self.hospitals.steps(size) * self.sites > MOST_STEPS or parameters > MOST_PARAMETERS or self._searching > SECONDS:
            self.notes.append(f"By optimisation, none were searched in updates of size {size}: it would take too long here.")
            return False
        return True

    def _show(self, own: Rows, found: dict[View, Outcome]) -> None:
        """Keeps the record that came out best from the largest update that gave one away at all."""
        best = int(found["alone"].errors.argmin())
        error = float(found["alone"].errors[best])
        if error >= CLOSE or (self.example is not None and (self.example.records, -self._least) > (len(own), -error)):
            return
        self._least = error
        record = self._features[own[best]].reshape(-1)
        rebuilt = found["alone"].candidates[found["alone"].nearest[best]]
        protected = found["sum"].candidates[found["sum"].nearest[best]] if np.isfinite(found["sum"].errors[best]) else None
        cells = tuple(self._cell(place, record, rebuilt, protected) for place in range(min(_SHOWN_FEATURES, len(record))))
        other = float(found["sum"].errors[best])
        self.example = Example(records=len(own), error=error, protected_error=other if np.isfinite(other) else None, cells=cells)

    def _cell(self, place: int, record: Floats, rebuilt: Floats, protected: Floats | None) -> Cell:
        def own_unit(value: Any) -> float:
            return float(np.clip(self.scale.shift[place] + self.scale.unit[place] * float(value), -1e300, 1e300))

        column = self._features.reshape(len(self.hospitals.samples), -1)[:, place]

        return Cell(
            feature=self.scale.names[place][:200],
            low=own_unit(column.min()),
            high=own_unit(column.max()),
            real=own_unit(record[place]),
            alone=own_unit(rebuilt[place]),
            protected=None if protected is None else own_unit(protected[place]),
        )


def _sum(updates: Sequence[Update]) -> Tree:
    return total(updates).sums["difference"]


def _attempt(name: View, outcomes: Sequence[Outcome]) -> Attempt:
    errors: npt.NDArray[np.float64] = np.concatenate([outcome.errors for outcome in outcomes])
    middle = float(np.median(errors))
    return Attempt(
        view=name,
        tried=len(errors),
        rebuilt=sum(outcome.rebuilt for outcome in outcomes),
        chance=min(len(errors), sum(outcome.chance for outcome in outcomes)),
        error=middle if np.isfinite(middle) else None,
    )
