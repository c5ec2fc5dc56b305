"""How far one site may move the model. Its agent shortens a longer change before it is masked, so this holds in sums that nobody can look into.

Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated Learning?", section 3: x_k becomes min(1, M/‖x_k‖)·x_k, where x_k is the
site's mean change (``difference`` over ``weight``) and M is the study's ``method.largest_change``. It bounds what data gone wrong, or altered on
purpose, can do at an honest site; against a site whose agent is not AIMER2's it is no defence, nor is the weight that a site states bounded.
"""

from __future__ import annotations

from collections.abc import Mapping

from aimer2.algorithms import catalogue
from aimer2.core import tree
from aimer2.core.errors import BadUpdate, Fault
from aimer2.core.said import say
from aimer2.core.study import Method, Study
from aimer2.core.task import Stage
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.privacy.clipping import clip

_SUMS = {"difference", "weight"}


def bounded(method: Method, stage: Stage, sums: Mapping[str, Tree]) -> Mapping[str, Tree]:
    """The sums with the change shortened; lazy leaves stay lazy, but are read once to be measured. Raises BadUpdate where they have no change."""
    if method.largest_change is None or stage != "train":
        return sums
    if not sums.keys() >= _SUMS:
        raise BadUpdate("The update holds no change whose length could be bounded.")
    weight = sum(float(tree.load(leaf).sum()) for leaf in sums["weight"].values())
    if not weight > 0:
        raise BadUpdate("An update without weight cannot be bounded.")
    shortened = clip(Update({"difference": sums["difference"]}), method.largest_change * weight).sums["difference"]
    return {name: shortened if name == "difference" else leaves for name, leaves in sums.items()}


def faults(study: Study) -> list[Fault]:
    """Of a method whose change is not the one sum that moves the model."""
    name = study.method.name
    if study.method.largest_change is None or name not in catalogue.names() or catalogue.sums(name) == _SUMS:
        return []
    problem = say("{name} moves the model by more than one sum, or by another one than the mean change", name=name)
    return [Fault("method.largest_change", problem, "leave it out, or take fedavg or one of its relatives")]
