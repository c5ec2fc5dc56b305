"""Which methods there are: every module of this room, and what other packages offer under the entry point ``aimer2.algorithms``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from aimer2.core.catalogue import Catalogue
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Algorithm, Learner
from aimer2.core.ranges import METHOD, made
from aimer2.core.said import say
from aimer2.core.study import Scalar
from aimer2.core.tree import Tree

_ROOM = Catalogue("aimer2.algorithms", "aimer2.algorithms", "method", frozenset({"aggregators", "adaptive", "parts", "personal", "remembered"}))
_PLACE = "method.name"


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return _ROOM.names()


def make(name: str, rounds: int, parameters: Mapping[str, Scalar]) -> Algorithm[Any]:
    """The method with its hyper-parameters.

    Raises BadStudy with every fault: no such method; a hyper-parameter unknown, ill-typed or out of its range.
    """
    return made(_kind(name), name, METHOD, parameters, rounds=rounds)


def example(name: str) -> Algorithm[Any]:
    """The instance that the contract suite runs."""
    found: Algorithm[Any] = _ROOM.example(name, _PLACE)
    return found


def version(name: str) -> int:
    return int(_kind(name).version)


def is_additive(name: str) -> bool:
    """Whether the coordinator needs no more than the sum of the sites' updates."""
    return bool(getattr(_kind(name), "additive", True))


def frameworks(name: str) -> tuple[str, ...]:
    """The frameworks whose models it works on; none named: all."""
    return tuple(getattr(_kind(name), "frameworks", ()))


def check(algorithm: Algorithm[Any], learner: Learner) -> None:
    """Raises BadStudy, BadModel where the method cannot work on this model: a layer that it names is not there, or not of its kind."""
    algorithm.init(learner.parameters())
    if (own := getattr(algorithm, "check", None)) is not None:
        own(learner)


def summary(name: str) -> str:
    """First line of the method's page."""
    return _ROOM.summary(name, _PLACE)


def leaves(name: str) -> tuple[str, ...]:
    """What a site sends under this method, one line per sum; taken from the paragraph "Leaves the site" of its page."""
    return _ROOM.leaves(name, _PLACE)


@cache
def sums(name: str) -> frozenset[str]:
    """The names of the sums that a site sends, as the method's page tells them; none where it does not."""
    return _ROOM.sums(name, _PLACE)


def words(name: str) -> frozenset[str]:
    """What the arrays of a method's sums are called whose names or shapes are not the model's: under masks too, both lie open."""
    return frozenset(getattr(_kind(name), "words", ()))


def layouts(name: str, received: Mapping[str, Tree]) -> Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]:
    """Of the sums whose arrays the method foretells: type and shape of each. Raises BadUpdate where what was received is not the method's."""
    foretold = getattr(_kind(name), "layouts", None)
    try:
        return {} if foretold is None else foretold(received)
    except (LookupError, ValueError, AttributeError):
        raise BadUpdate(say("What the coordinator sent is not what {name} sends.", name=name)) from None


def _kind(name: str) -> type[Any]:
    return type(_ROOM.example(name, _PLACE))
