"""The process that computes on patients' data. Confines itself first; only then is the study's code, the data and a framework touched. A spare one
has imported our own modules before, while it had no study.

Started by the agent as ``python -I -B -m aimer2.site.worker SOCKET PARENT``; says what is in force and waits for the agent's word to go on.
What it prints goes to the study's log, which stays at the site.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aimer2.site.line import Line
from aimer2.site.sandbox import Confinement, confine, die_with_parent


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[3:] == ["ready"]:
        _get_ready()
    try:
        asked, [log] = line.receive()
    except EOFError:
        return
    _move(log, asked.pop("scratch"))
    enforced = confine(_confinement(asked))
    sys.stderr.write("\n".join(enforced.describe()) + "\n")
    line.send({"enforced": asdict(enforced)})
    try:
        opening, _ = line.receive()
        # Loaded by name: numpy and torch start threads when they are imported, and confinement must come first.
        importlib.import_module(f"aimer2.site.{opening['serves']}").serve(line, opening)
    except EOFError:
        return


def _get_ready() -> None:
    """Imports what every study needs, while there is no study. It must not start a thread, which would escape confinement: `confine` then refuses."""
    for name in ("aimer2.site.serving", "aimer2.statistics.catalogue"):
        importlib.import_module(name)
    sys.modules["aimer2.statistics.catalogue"].names()


def _move(log: int, scratch: str) -> None:
    """Into the study's own folder, with its log."""
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.chdir(scratch)
    os.environ.update(HOME=scratch, TMPDIR=scratch)


def _confinement(asked: dict[str, Any]) -> Confinement:
    read, write = (tuple(Path(path) for path in asked.pop(name)) for name in ("read", "write"))
    return Confinement(read=read, write=write, **asked)


if __name__ == "__main__":
    main()
