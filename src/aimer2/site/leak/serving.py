"""The inside of the confined worker of a rehearsal: one question, one answer, and before it how far it is. The study's own code runs here and
nowhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimer2.connectors.table import load_table
from aimer2.core.study import Study
from aimer2.site.leak.rehearsal import Rehearsal
from aimer2.site.line import Line
from aimer2.site.serving import code_of


def serve(line: Line, opening: Mapping[str, Any]) -> None:
    """Opens the study and the data, waits for the question, answers with findings or a code."""
    try:
        files = Path(opening["files"])
        study = Study.model_validate_json((files / "study.json").read_bytes())
        table = load_table(Path(opening["snapshot"]), verify=True, sha256=opening["sha256"])
    except Exception as error:  # noqa: BLE001 - the process's edge
        line.send({"failed": code_of(error)})
        return
    line.send({"opened": True})
    asked, _ = line.receive()

    def tell(done: int, of: int) -> None:
        line.send({"done": done, "of": of})
        line.receive()

    try:
        named = {path.name: path for path in files.iterdir() if path.name != "study.json"}
        findings = Rehearsal(study, table, named, time.process_time, records=int(asked["records"])).findings(tell)
        line.send({"findings": findings.model_dump(mode="json")})
    except Exception as error:  # noqa: BLE001 - the process's edge
        line.send({"failed": code_of(error)})
