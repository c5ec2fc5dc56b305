"""How a study's updates are made smaller: packed at the site, restored at the coordinator. The two halves on one page.

Of an update's sums the ``difference`` is compressed, in the rounds of training; weights and figures travel as they are. The agent packs what its
worker has handed over and it has checked, before the change is bounded and masked; so its checks know nothing of compression, and what is bounded
is what leaves. What is linear is restored after the sum, in the clear and in secret; all else before it, site by site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, final

import numpy as np

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.compression import catalogue as compressions
from aimer2.compression.compressor import Compressor, form_of
from aimer2.compression.packing import Packing, added, is_compressed
from aimer2.core import tree
from aimer2.core.errors import AimerError, BadStudy, BadUpdate, Fault, NotAllowed
from aimer2.core.protocols import Algorithm
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.study.collect import Collected

MEMORY = "compression."
"""How the names begin under which a site keeps what it has left out. They are the agent's: a worker neither sees nor writes them."""

_DIFFERENCE = "difference"
_BEFORE, _AFTER, _ROUND = f"{MEMORY}before", f"{MEMORY}after", f"{MEMORY}round"

_EXACT_CHANGES: Mapping[str, str] = {
    "feddyn": "its sites and its coordinator each add up the sites' changes, and both must add up the same",
}
"""Methods that send a difference which must arrive as it is, and why."""


@final
@dataclass(frozen=True, slots=True)
class Compressed:
    """What may go on to be bounded and masked, and what the site keeps of it."""

    sums: Mapping[str, Tree]
    memory: Mapping[str, Tree]


@final
@dataclass(frozen=True, slots=True)
class Compression:
    """A study's compression and the seed of its draws."""

    compressor: Compressor
    seed: int

    @classmethod
    def of(cls, study: Study) -> Self | None:
        """None where the study has none. Raises BadStudy for one that is not installed here."""
        asked = study.method.compression
        return None if asked is None else cls(compressions.make(asked.name, asked.parameters), study.seed)

    def pack(self, task: Task, sums: Mapping[str, Tree], memory: Mapping[str, Tree]) -> Compressed:
        """Raises BadUpdate where there is no change to compress, NotAllowed where it would be masked and is no sum."""
        if _DIFFERENCE not in sums:
            raise BadUpdate("The update holds no change that could be compressed.")
        if task.message and not self.compressor.linear:
            raise NotAllowed("The study's compression does not add up, so its updates cannot be summed in secret.")
        packing, leaves, kept = Packing(self.compressor, self.seed, task.round_number, task.site), sums[_DIFFERENCE], dict[str, Tree]()
        if self.compressor.remembers:
            before = left_out_before(memory, task.counted)
            leaves = added(leaves, before)
        packed = packing.pack(leaves)
        if self.compressor.remembers:
            kept = {_BEFORE: before, _AFTER: packing.left_out(leaves, packed), _ROUND: {"number": np.array([task.round_number])}}
        return Compressed({name: packed if name == _DIFFERENCE else one for name, one in sums.items()}, kept)

    def opening(self, round_number: int, model: Tree) -> Opening:
        """The coordinator's half of a round; ``model``: as the sites have received it."""
        return Opening(Packing(self.compressor, self.seed, round_number), model)


def compressed(compression: Compression | None, task: Task, sums: Mapping[str, Tree], memory: Mapping[str, Tree]) -> Compressed:
    """A site's sums as its study's compression has them; lazy leaves stay lazy. Of a study without one, and outside training, the sums themselves."""
    return Compressed(sums, {}) if compression is None or task.stage != "train" else compression.pack(task, sums, memory)


def left_out_before(memory: Mapping[str, Tree], counted: int) -> Tree:
    """What the site has left out of the answers that counted: of an answer that came late, or to a round that is asked anew, nothing is kept."""
    if _ROUND not in memory:
        return {}
    return memory[_BEFORE if tree.scalar(memory[_ROUND], "number") > counted else _AFTER]


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """What a round's updates and their sum are restored with."""

    packing: Packing
    model: Tree

    def each(self, collected: Collected) -> Collected:
        """Every update as it is added: restored, unless the sum itself is restored. A site whose update has other forms than the study's compression
        makes counts as failed."""
        for site, update in list(collected.updates.items()):
            try:
                self.packing.check(update.sums.get(_DIFFERENCE, {}), self.model)
            except AimerError as error:
                collected.drop(site, error.code, error.sentence)
        if self.packing.compressor.linear:
            return collected
        return replace(collected, updates={site: self._restored(update) for site, update in collected.updates.items()})

    def whole(self, total: Update) -> Update:
        """The sum of all updates. Raises BadUpdate where it is not one of compressed updates of this model."""
        return self._restored(total) if self.packing.compressor.linear else total

    def _restored(self, update: Update) -> Update:
        restored = self.packing.restore(update.sums.get(_DIFFERENCE, {}), self.model)
        return Update({**update.sums, _DIFFERENCE: restored})


def faults(study: Study) -> list[Fault]:
    """Everything that does not go together with the study's compression."""
    asked = study.method.compression
    if asked is None:
        return []
    try:
        compressor = compressions.make(asked.name, asked.parameters)
    except BadStudy as error:
        return list(error.faults)
    return [*_method(study), *_terms(study, asked.name, compressor), *_aggregator(study, asked.name, compressor)]


def refuse_vectors(study: Study, method: Algorithm[Any], untrained: Tree) -> None:
    """Raises BadStudy where what sites receive of the model has no array that would be compressed."""
    if study.method.compression is None:
        return
    travels = method.broadcast(method.init(untrained)).get("model", {})
    if any(is_compressed(form_of(leaf)) for leaf in travels.values()):
        return
    problem = "would change nothing: no array of the model that travels has two or more dimensions, and others go whole"
    raise BadStudy([Fault("method.compression", problem, "leave it out")])


def _method(study: Study) -> list[Fault]:
    name = study.method.name
    if name not in catalogue.names():
        return []
    reason = _EXACT_CHANGES.get(name)
    if not catalogue.is_additive(name):
        reason = say("it hands one site's model on to the next, and that model has to arrive as it is")
    elif _DIFFERENCE not in catalogue.sums(name):
        reason = say("what it sends is no change of a model")
    if reason is None:
        return []
    return [
        Fault(
            "method.compression",
            say("does not fit {name}: {reason}", name=name, reason=reason),
            "leave it out, or take fedavg or one of its relatives",
        )
    ]


def _terms(study: Study, name: str, compressor: Compressor) -> list[Fault]:
    """Of what a sum, a bound and noise rest on."""
    if compressor.linear:
        return []
    linear = " or ".join(other for other in compressions.names() if compressions.example(other).linear)
    found = []
    if study.privacy.secure_aggregation:
        problem = say("is {name}, whose updates do not add up, and secure aggregation shows nobody a single one", name=name)
        remedy = say("take {linear}, or set `privacy.secure_aggregation` to false and say why in `privacy.why_not_secure`", linear=linear)
        found.append(Fault("method.compression.name", problem, remedy))
    if study.privacy.differential_privacy is not None:
        problem = say(
            "is {name}, and differential privacy is accounted for sums of what the noise was added to, not for what is rounded or chosen of it",
            name=name,
        )
        found.append(Fault("method.compression.name", problem, say("take {linear}", linear=linear)))
    if study.method.largest_change is not None:
        problem = say("is {name}, which may lengthen a change beyond `method.largest_change` once it is restored", name=name)
        found.append(Fault("method.compression.name", problem, say("take {linear}, or leave `largest_change` out", linear=linear)))
    return found


def _aggregator(study: Study, name: str, compressor: Compressor) -> list[Fault]:
    aggregator = study.method.aggregator
    if compressor.aligned or aggregator not in aggregators.names() or aggregators.example(aggregator).additive:
        return []
    problem = say(
        "is {name}, whose sites send different coordinates, and {aggregator} would compare their numbers with zeros", name=name, aggregator=aggregator
    )
    return [Fault("method.compression.name", problem, "take another compression, or the aggregator weighted_mean")]
