"""Stand-in hospitals made of this hospital's own rows, training by the study's own terms."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.learners.batches import batches
from aimer2.learners.recipe import Recipe
from aimer2.study.perform import shielded
from aimer2.study.site_level import CLIP_NORM, CLIPPING, SiteLevel

Rows = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Hospitals:
    """What every stand-in does: the study's method on the study's model, with its privacy noise if the study given here asks for it."""

    study: Study
    learner: Learner
    samples: Samples
    noise: SiteLevel | None = None
    """Of a study that protects whole sites: what the agent does to an update."""

    def part(self, rows: Rows) -> Dataset:
        """As a method sees it."""
        return shielded(self.study, self.samples.at(rows))

    def steps(self, rows: int) -> int:
        return self.study.training.steps(rows)

    def order(self, rows: int, hospital: int, round_number: int = 1) -> list[Rows]:
        """The batches of a training, as anybody can tell them who has the study's seed."""
        size = self.study.training.batch_size
        return list(batches(rows, batch_size=size, steps=self.steps(rows), rng=self._rng(hospital, round_number)))

    def learning_rate(self) -> float:
        return Recipe.of(self.study, self.samples.feature_shape).learning_rate(1)

    def first_update(self, initial: Tree, rows: Rows, hospital: int) -> Update:
        """What a hospital with these rows sends in the first round."""
        algorithm = self.algorithm
        return self._update(algorithm.broadcast(algorithm.init(initial)), rows, hospital, 1, {})

    def _update(self, received: Mapping[str, Tree], rows: Rows, hospital: int, round_number: int, memory: MutableMapping[str, Tree]) -> Update:
        local = Local(
            data=self.part(rows),
            learner=self.learner,
            memory=memory,
            rng=self._rng(hospital, round_number),
            round_number=round_number,
            steps=self.steps(len(rows)),
            batch_size=self.study.training.batch_size,
        )
        update: Update = self.algorithm.local(received, local)
        return update if self.noise is None else _noisy(update, self.noise)

    @property
    def algorithm(self) -> Any:
        method = self.study.method
        return catalogue.make(method.name, method.rounds, method.parameters)

    def train(self, initial: Tree, parts: Sequence[Rows], rounds: int) -> tuple[Tree, Tree]:
        """The first hospital's own model when it was last asked, as its update tells it, and the model of all."""
        algorithm, method = self.algorithm, self.study.method
        state, alone, size = algorithm.init(initial), initial, len(self.part(parts[0]))
        # a study that compares groups of hospitals adds up those of one
        grouped = self.study.privacy.group_size is not None
        add = WeightedMean() if grouped else aggregators.make(method.aggregator, self.study.sites.block, method.aggregator_parameters)
        hospitals = {f"hospital-{number:03}": number for number in range(len(parts))}
        memories: list[dict[str, Tree]] = [{} for _ in parts]
        for number in range(1, rounds + 1):
            received, chosen = algorithm.broadcast(state), [hospitals[name] for name in algorithm.select(state, list(hospitals))]
            updates = {place: self._update(received, parts[place], place, number, memories[place]) for place in chosen}
            if 0 in updates:
                moved = updates[0].sums["difference"]
                before = {**initial, **algorithm.model(state)}
                alone = {name: leaf + tree.load(moved[name]) / size if name in moved else leaf for name, leaf in before.items()}
            state = algorithm.update(state, add([updates[place] for place in chosen]))
        return alone, {**initial, **algorithm.model(state)}

    def _rng(self, hospital: int, round_number: int) -> np.random.Generator:
        return stream(self.study.seed, "rehearsal", hospital, round_number)


def _noisy(update: Update, noise: SiteLevel) -> Update:
    """The change, shortened to the first clip norm, with this site's share of the noise, in numbers, of the weight that an attacker knows."""
    clip_norm, rows = noise.terms.clip_norm, update.sums["weight"]["rows"]
    words = noise.at_site("train", update.sums, {CLIPPING: {CLIP_NORM: np.array([clip_norm])}})
    sums, _ = noise.at_coordinator({name: {leaf: tree.load(word) for leaf, word in named.items()} for name, named in words.items()}, clip_norm)
    return Update({"difference": {name: leaf * leaf.dtype.type(rows[0]) for name, leaf in sums["difference"].items()}, "weight": {"rows": rows}})


def deal(rows: int, size: int, sites: int, rng: np.random.Generator) -> list[Rows]:
    """Rows of ``sites`` hospitals of this size: the first has its own, the others draw, again and again, from the rest."""
    order = rng.permutation(rows)
    rest = order[size:] if rows > size else order
    return [order[:size], *(rng.choice(rest, size) for _ in range(sites - 1))]
