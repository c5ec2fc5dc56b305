"""The process that computes on patients' data. Confines itself first; only then is the study's code, the data and a framework touched.

Started by the agent as ``python -I -B -m aimer2.site.worker SOCKET PARENT``; says what is in force and waits for the agent's word to go on.
What it prints goes to the study's log, which stays at the site.
"""

from __future__ import annotations

import importlib
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
    asked, _ = line.receive()
    enforced = confine(_confinement(asked))
    sys.stderr.write("\n".join(enforced.describe()) + "\n")
    line.send({"enforced": asdict(enforced)})
    try:
        opening, _ = line.receive()
        # Loaded by name: numpy and torch start threads when they are imported, and confinement must come first.
        importlib.import_module(f"aimer2.site.{opening['serves']}").serve(line, opening)
    except EOFError:
        return


def _confinement(asked: dict[str, Any]) -> Confinement:
    read, write = (tuple(Path(path) for path in asked.pop(name)) for name in ("read", "write"))
    return Confinement(read=read, write=write, **asked)


if __name__ == "__main__":
    main()
