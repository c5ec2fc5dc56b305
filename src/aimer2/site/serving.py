"""The inside of a confined worker: opens the study and its data once, then does one task after the other."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, final

from aimer2.connectors.table import load_table
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import AimerError, OutOfResources
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.core.tree import Tree
from aimer2.identity import base64url
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.site.line import Line
from aimer2.site.memory_files import MemoryFile, OpenFile
from aimer2.study.perform import open_performer
from aimer2.study.performed import Performed, Performs


def serve(line: Line, opening: Mapping[str, Any]) -> None:
    """Until the agent closes the line. A failure is answered with its code alone; what was raised is printed into the site's own log."""
    try:
        performer = _open(opening)
    except Exception as error:  # noqa: BLE001 - the process's edge
        line.send({"failed": code_of(error)})
        return
    line.send({"opened": True})
    while True:
        request, files = line.receive()
        reply, made = _answer(performer, request, files)
        line.send(reply, made)


def _open(opening: Mapping[str, Any]) -> Performs:
    files = Path(opening["files"])
    study = Study.model_validate_json((files / "study.json").read_bytes())
    disclosure = Disclosure(**opening["disclosure"])
    table = replace(load_table(Path(opening["snapshot"]), verify=True, sha256=opening["sha256"]), minimum_cell=disclosure.minimum_cell)
    named = {path.name: path for path in files.iterdir() if path.name != "study.json"}
    return open_performer(study, table, site=opening["site"], files=named, disclosure=disclosure)


def _answer(performer: Performs, request: dict[str, Any], files: list[int]) -> tuple[dict[str, Any], list[int]]:
    try:
        task = Task.model_validate(request["task"])
        names = [*request["received"], *request["memory"]]
        trees: list[Tree] = [read_tree(OpenFile(file)) for file in files]
        split = len(request["received"])
        received = dict(zip(names[:split], trees[:split], strict=True))
        memory = _Memory(dict(zip(names[split:], trees[split:], strict=True)))
        return _hand_over(performer.perform(task, received, memory), memory)
    except Exception as error:  # noqa: BLE001 - the process's edge, per task
        return {"failed": code_of(error)}, []
    finally:
        for file in files:
            os.close(file)


@final
class _Memory(dict[str, Tree]):
    """The site's memory of a study, which knows what was changed in it."""

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        super().__init__(trees)
        self._before = dict(trees)

    @property
    def changed(self) -> MutableMapping[str, Tree]:
        return {name: tree for name, tree in self.items() if self._before.get(name) is not tree}


def _hand_over(performed: Performed, memory: _Memory) -> tuple[dict[str, Any], list[int]]:
    changed = memory.changed
    files = []
    for tree in (*performed.sums.values(), *changed.values()):
        file = MemoryFile()
        write_tree(tree, file)
        files.append(file.seal())
    reply = {
        "sums": list(performed.sums),
        "memory": list(changed),
        "kept": [name for name in memory if name not in changed],
        "checks": [check.model_dump(mode="json") for check in performed.checks],
        "figures": [asdict(figure) for figure in performed.figures],
        "cohorts": {name: base64url.encode(bits) for name, bits in performed.cohorts.items()},
    }
    return reply, files


def code_of(error: Exception) -> str:
    """The code that may be told; the text, which may quote a record, goes to the log of the site."""
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    if isinstance(error, AimerError):
        return error.code
    return OutOfResources.code if isinstance(error, MemoryError) else AimerError.code
