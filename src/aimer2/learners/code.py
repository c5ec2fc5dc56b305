"""A study's own ``model.py``: loaded from the approved bytes, and what goes wrong in it told by its kind alone.

The file defines ``build(features, classes, **options)``: ``features`` is the number of columns, or the shape of an image; ``classes`` is 2 for a
binary target, 1 for a regression and for Cox regression, and otherwise the number of classes, labels or time intervals; the options are the
study's. For torch it returns an ``nn.Module``, for keras a ``keras.Model``, for sklearn an `aimer2.learners.sklearn.Estimator`, for numpy an
`aimer2.learners.numpy.Model`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from aimer2.core.errors import AimerError, BadModel
from aimer2.core.said import say


@final
class _Source(importlib.abc.ExecutionLoader):
    """Loads the source text and nothing else: a compiled file that lay in a ``__pycache__`` would be code that nobody approved."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_source(self, fullname: str) -> str:
        return self._path.read_text(encoding="utf-8")


def load_build(path: Path) -> Callable[..., Any]:
    """The function ``build`` of the file.

    Raises BadModel where the file cannot be loaded or has none.
    """
    with refusing():
        name = f"_aimer2_study_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        spec = importlib.util.spec_from_file_location(name, path, loader=_Source(path))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    build = getattr(module, "build", None)
    if not callable(build):
        raise BadModel("The study's code has no function `build(features, classes)`.")
    found: Callable[..., Any] = build
    return found


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns whatever the study's code raises into a BadModel that names the exception's class only: its text could quote anything."""
    try:
        yield
    except AimerError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of the study may raise anything
        raise BadModel(say("The study's code raised {name}.", name=type(error).__name__)) from None
