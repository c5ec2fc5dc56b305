"""Federated learning and statistics for medical research, without any patient record leaving a hospital."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aimer2.client.coordinator import Coordinator
    from aimer2.client.diagnose import diagnose
    from aimer2.client.evaluate import evaluate
    from aimer2.client.leave_one_out import leave_one_out
    from aimer2.client.questions import ask
    from aimer2.client.simulate import federate, simulate
    from aimer2.core.study import Study

__all__ = ["Coordinator", "Study", "__version__", "ask", "diagnose", "evaluate", "federate", "leave_one_out", "simulate"]
__version__ = "0.1.0"

# Loaded when first asked for, so that `import aimer2` costs nothing.
_HOMES = {
    "Coordinator": "aimer2.client.coordinator",
    "Study": "aimer2.core.study",
    "ask": "aimer2.client.questions",
    "diagnose": "aimer2.client.diagnose",
    "evaluate": "aimer2.client.evaluate",
    "federate": "aimer2.client.simulate",
    "leave_one_out": "aimer2.client.leave_one_out",
    "simulate": "aimer2.client.simulate",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
