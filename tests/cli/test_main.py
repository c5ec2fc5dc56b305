from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

import aimer2
from aimer2.cli.main import COMMANDS, LazyGroup, status_of
from aimer2.core.errors import AimerError, Unreachable, catalogue

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SOURCE)}


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-m", "aimer2", *arguments]
    return subprocess.run(given, capture_output=True, text=True, check=False, env=ENVIRONMENT | environment, stdin=subprocess.DEVNULL)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        told = process("--help")
        seconds.append(time.perf_counter() - began)
    assert told.returncode == 0
    assert all(name in told.stdout for name in COMMANDS)
    assert min(seconds) < 0.6
    program = "import sys\nfrom aimer2.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT).stderr.split()
    heavy = {"numpy", "pandas", "pydantic", "rich", "sqlalchemy", "tensorflow", "torch", "urllib3", "asyncio", "cryptography"}
    assert not heavy & {name.partition(".")[0] for name in loaded}


def test_every_command_of_the_table_exists_and_explains_itself() -> None:
    program = """if True:
        import click
        from aimer2.cli.main import COMMANDS, LazyGroup, aimer2
        for name in COMMANDS:
            command = LazyGroup().get_command(click.Context(aimer2), name)
            assert command.name == name, name
            assert command.get_short_help_str(200), name
        """
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert told.returncode == 0, told.stderr


def test_the_version_is_the_packages() -> None:
    assert process("--version").stdout.strip() == f"aimer2, version {aimer2.__version__}"


def test_errors_are_a_sentence_a_remedy_and_a_code(command: Any) -> None:
    told = command("study", "list")
    assert told.status == 3
    assert told.out == ""
    assert told.err == "You are not logged in anywhere.\nRun `aimer2 login https://… --user NAME`. [not-authenticated]\n"


def test_a_slip_in_an_option_is_status_2(command: Any) -> None:
    assert command("study", "list", "--jsn").status == 2
    assert command("stduy").status == 2


def test_every_error_has_a_status_of_the_table() -> None:
    found = {code: status_of(kind([]) if code == "bad-study" else kind("")) for code, kind in catalogue().items()}  # type: ignore[arg-type]
    assert set(found.values()) <= {1, 2, 3, 4, 5}
    assert (found["bad-study"], found["bad-data"]) == (2, 2)
    assert (found["not-authenticated"], found["clock-skew"], found["not-approved"]) == (3, 3, 3)
    assert (found["not-found"], found["tampered"]) == (4, 4)
    assert found["unreachable"] == 5
    assert (found["internal"], found["out-of-resources"], found["not-available"]) == (1, 1, 1)


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: broken)


def test_an_unexpected_error_tells_no_data_unless_it_is_asked_to(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(monkeypatch, KeyError("patient 4711"))
    told = command("study")
    assert told.status == 1
    assert "KeyError" in told.err and "AIMER2_DEBUG" in told.err
    assert "4711" not in told.err and "Traceback" not in told.err
    monkeypatch.setenv("AIMER2_DEBUG", "1")
    told = command("study")
    assert told.status == 1
    assert "Traceback" in told.err and "4711" in told.err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Unreachable("Gone."), 5), (AimerError("Odd."), 1)])
def test_the_way_it_ended_is_the_status(command: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int) -> None:
    _raising(monkeypatch, error)
    told = command("study")
    assert told.status == status
    assert "Traceback" not in told.err


def test_a_command_whose_library_is_missing_says_what_to_install(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith(("aimer2.cli.sites", "aimer2.cli.login", "rich."))]:
        monkeypatch.delitem(sys.modules, name)
    told = command("sites")
    assert told.status == 1
    assert "rich" in told.err and "[not-available]" in told.err
