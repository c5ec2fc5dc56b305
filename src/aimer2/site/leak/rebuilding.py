"""Records rebuilt from updates of different sizes, through each pair of eyes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.attacks.inversion import CLOSE, Floats, Outcome, beside, first_layer, judge, ratios, span
from aimer2.connectors.resampling import inside, resampled
from aimer2.core import tree
from aimer2.core.said import mark
from aimer2.core.study import Image
from aimer2.core.tree import Tree
from aimer2.core.update import Update, total
from aimer2.site.leak.effort import USUAL, Effort
from aimer2.site.leak.findings import SIDE, Attempt, Cell, Example, Level, Picture, View
from aimer2.site.leak.hospitals import Hospitals, Rows, deal
from aimer2.site.leak.view import garbled

MOST_STEPS = 16
"""Training steps of all hospitals in a sum that a search replays; larger updates are read off the first layer alone."""

MOST_PARAMETERS = 1_000_000

MOST_UPDATES = 4
"""Of one size that are attacked where each is searched."""

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
    effort: Effort = USUAL
    image: Image | None = None
    example: Example | None = None
    _searching: float = 0.0
    _rank: tuple[bool, int, float] = (False, 0, -np.inf)
    _values: Floats = field(init=False)
    _spread: Floats = field(init=False)

    def __post_init__(self) -> None:
        features = np.asarray(self.hospitals.samples.features)
        self._values = self._narrow(features.reshape(len(features), -1).astype(np.float64))
        self._spread = self._values.std(axis=0)
        # a pixel that hardly varies over the patients is worth no more than another
        self._spread[: self._pixels] = np.sqrt((self._spread[: self._pixels] ** 2).mean()) if self._pixels else 0.0

    @property
    def width(self) -> int:
        """Numbers in a record: pixels, then columns."""
        return len(self._spread)

    @property
    def _pixels(self) -> int:
        return 0 if self.image is None else int(np.prod(self.image.shape))

    def _narrow(self, rows: Floats) -> Floats:
        """Of rows ``(n, prod(feature_shape))`` each column that stands beside an image once, not once per pixel."""
        if self.image is None or rows.shape[1] == self._pixels:
            return rows
        return np.concatenate([rows[:, : self._pixels], rows[:, self._pixels :: self.image.height * self.image.width]], axis=1)

    def _wide(self, record: Floats) -> Floats:
        """As the model has it."""
        if self.image is None:
            return record
        return np.concatenate([record[: self._pixels], record[self._pixels :].repeat(self.image.height * self.image.width)])

    def level(self, size: int, most: int) -> Level:
        """Updates of ``size`` records each, until ``most`` records were attacked."""
        rows = len(self.hospitals.samples)
        searched = self._can_search(size)
        wanted = max(1, min(most, rows) // size)
        updates = min(wanted, MOST_UPDATES) if searched else wanted
        order = self.rng.permutation(rows)
        outcomes: dict[View, list[Outcome]] = {}
        done = 0
        while done < updates and (done == 0 or not searched or self._searching < self.effort.search_seconds):
            self._attack(order[done * size : (done + 1) * size], searched, outcomes)
            done += 1
        attempts = tuple(_attempt(name, found) for name, found in outcomes.items())
        return Level(records=size, updates=done, steps=self.hospitals.steps(size), searched=searched, attempts=attempts)

    def _attack(self, own: Rows, searched: bool, outcomes: dict[View, list[Outcome]]) -> None:
        found: dict[View, Outcome] = {}
        for seen in self._views(own):
            candidates = self._candidates(seen, searched)
            found[seen.view] = judge(candidates, self._values[own], self._values, self.rng, self._spread)
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
        read = self._narrow(np.empty((0, int(np.prod(shape)))) if layer is None else ratios(layer))
        # one record is read off exactly; noise under masks has no records whose training would give it
        if not searched or seen.view == "masked" or (layer is not None and len(seen.parts) == 1 == len(seen.parts[0])):
            return read
        matching = importlib.import_module("aimer2.attacks.torch_matching")  # loaded by name: studies without torch need none
        began = self.spent()
        dense = self.image is None or (layer is not None and span(layer) is not None)
        training, given = self._training(matching, seen, dense), (self.module, self.initial, seen.difference)
        if dense:
            found = self._narrow(matching.match(*given, training, layer, self.rng, steps=self.effort.steps))
        else:
            found = self._images(matching, given, training)
        self._searching += self.spent() - began
        return np.concatenate([read, found])

    def _images(self, matching: Any, given: tuple[Any, Tree, Tree], training: Any) -> Floats:
        until = self.spent() + self.effort.search_seconds
        found: Floats = matching.match_images(*given, training, self.rng, steps=self.effort.steps, hurry=lambda: self.spent() > until)
        one = training.columns and len(training.targets) == 1
        if one and (columns := beside(given[2], training.columns)) is not None:
            found[:, self._pixels :] = columns
        return found

    def _training(self, matching: Any, seen: _Seen, dense: bool) -> Any:
        hospitals, training = self.hospitals, self.hospitals.study.training
        size = len(seen.parts[0])
        orders = [[batch + size * number for batch in hospitals.order(size, number)] for number in range(len(seen.parts))]
        return matching.Training(
            kind=hospitals.study.cohort.target.kind,
            hospitals=orders,
            targets=hospitals.samples.targets[np.concatenate(seen.parts)],
            feature_shape=hospitals.samples.feature_shape,
            centre=self._wide(self._values.mean(axis=0)) if dense else self._values.mean(axis=0),
            spread=self._wide(self._spread) if dense else self._spread,
            columns=0 if self.image is None else self.width - self._pixels,
            learning_rate=hospitals.learning_rate(),
            momentum=training.momentum if training.optimiser == "sgd" else 0.0,
            weight_decay=training.weight_decay,
            plain_descent=training.optimiser == "sgd",
        )

    def _can_search(self, size: int) -> bool:
        kind = self.hospitals.study.cohort.target.kind
        if self.module is None:
            return False
        if kind not in _REPLAYED:
            self.notes.append(f"Records are not searched by optimisation where the target is of the kind '{kind}'.")
            return False
        if not self.initial.keys() <= self.hospitals.first_update(self.initial, np.arange(size), 0).sums["difference"].keys():
            self.notes.append(mark("The method sends parts of the model, or factors of it; updates are read off the first layer alone."))
            return False
        parameters = sum(tree.size(leaf) for leaf in self.initial.values())
        if self.hospitals.steps(size) * self.sites > MOST_STEPS or parameters > MOST_PARAMETERS or self._searching > self.effort.search_seconds:
            self.notes.append(f"By optimisation, none were searched in updates of size {size}: it would take too long here.")
            return False
        return True

    def _show(self, own: Rows, found: dict[View, Outcome]) -> None:
        """Keeps the record that came out best from the largest update that gave one away at all; if none did, the image that came out best."""
        best = int(found["alone"].errors.argmin())
        error, other = (float(found[view].errors[best]) for view in ("alone", "sum"))
        rank = (error < CLOSE, len(own) if error < CLOSE else 0, -error)
        if rank < self._rank or not (rank[0] or (self.image is not None and np.isfinite(error))):
            return
        self._rank = rank
        record = self._values[own[best]]
        rebuilt = found["alone"].candidates[found["alone"].nearest[best]]
        protected = found["sum"].candidates[found["sum"].nearest[best]] if np.isfinite(other) else None
        cells = tuple(self._cell(place, record, rebuilt, protected) for place in range(min(_SHOWN_FEATURES, len(record) - self._pixels)))
        picture = None if self.image is None else self._picture(self.image, record, rebuilt, protected)
        protected_error = other if np.isfinite(other) else None
        self.example = Example(records=len(own), error=error, protected_error=protected_error, cells=cells, picture=picture)

    def _cell(self, column: int, record: Floats, rebuilt: Floats, protected: Floats | None) -> Cell:
        place = self._pixels + column

        def own_unit(value: Any) -> float:
            return float(np.clip(self.scale.shift[column] + self.scale.unit[column] * float(value), -1e300, 1e300))

        return Cell(
            feature=self.scale.names[column][:200],
            low=own_unit(self._values[:, place].min()),
            high=own_unit(self._values[:, place].max()),
            real=own_unit(record[place]),
            alone=own_unit(rebuilt[place]),
            protected=None if protected is None else own_unit(protected[place]),
        )

    def _picture(self, image: Image, record: Floats, rebuilt: Floats, protected: Floats | None) -> Picture:
        height, width = inside((image.height, image.width), (SIDE, SIDE)) if max(image.height, image.width) > SIDE else (image.height, image.width)
        low, high = record[: self._pixels].min(), record[: self._pixels].max()

        def shown(values: Floats) -> str:
            small = resampled(values[: self._pixels].reshape(image.shape), height, width)
            grey: npt.NDArray[np.uint8] = np.round(np.clip((small - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
            return grey.transpose(1, 2, 0).tobytes().hex()

        return Picture(
            height=height,
            width=width,
            channels=image.channels,
            real=shown(record),
            alone=shown(rebuilt),
            protected=None if protected is None else shown(protected),
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
