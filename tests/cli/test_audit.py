from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimer2.audit.heads import sign_head
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import SystemClock
from aimer2.identity.keys import SigningKey


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, str]:
    """A log of three entries, and its public key."""
    key = SigningKey.generate()
    path = tmp_path / "audit.jsonl"
    written = AuditLog(path, key, SystemClock())
    for name in ("ada", "ben", "cleo"):
        written.append(Kind.USER_ADDED, actor="operator:test", study=None, details={"user": name})
    return path, key.public.text


def test_an_intact_log_tells_its_head_which_is_the_next_anchor(command: Any, log: tuple[Path, str], tmp_path: Path) -> None:
    path, key = log
    told = command("audit", "verify", path, "--key", key)
    assert told.status == 0, told.err
    assert "intact: 3 entries" in told.out
    head = told.out.splitlines()[1].split()[-1]
    (tmp_path / "key.txt").write_text(f"{key}\n")
    told = command("audit", "verify", path, "--key", tmp_path / "key.txt", "--anchor", head)
    assert told.status == 0
    assert "--anchor" not in told.out


def test_a_changed_entry_is_found(command: Any, log: tuple[Path, str]) -> None:
    path, key = log
    path.write_text(path.read_text().replace("ben", "eve"))
    told = command("audit", "verify", path, "--key", key)
    assert told.status == 4
    assert "line 2: " in told.out and "[tampered]" in told.err


def test_a_log_that_was_cut_off_needs_the_anchor_to_be_found(command: Any, log: tuple[Path, str]) -> None:
    path, key = log
    head = command("audit", "verify", path, "--key", key).out.splitlines()[1].split()[-1]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert command("audit", "verify", path, "--key", key).status == 0
    told = command("audit", "verify", path, "--key", key, "--anchor", head)
    assert told.status == 4
    assert "ends at entry 2" in told.out


def test_another_key_a_wrong_anchor_and_no_file(command: Any, log: tuple[Path, str], tmp_path: Path) -> None:
    path, key = log
    assert command("audit", "verify", path, "--key", SigningKey.generate().public.text).status == 4
    assert command("audit", "verify", path, "--key", "no key").status == 2
    assert command("audit", "verify", path, "--key", key, "--anchor", "3").status == 2
    assert command("audit", "verify", tmp_path / "nothing", "--key", key).status == 4


def test_two_logs_are_verified_against_each_other(command: Any, tmp_path: Path) -> None:
    keys = {"hub": SigningKey.generate(), "north": SigningKey.generate()}
    logs = {name: AuditLog(tmp_path / f"{name}.jsonl", key, SystemClock()) for name, key in keys.items()}
    for name, log in logs.items():
        for number in range(3):
            log.append(Kind.USER_ADDED, actor=f"operator:{name}", details={"user": f"u{number}"})
    head = sign_head("north", logs["north"].head(), time="2026-01-01T00:00:00Z", key=keys["north"])
    logs["hub"].append(Kind.HEAD_RECEIVED, actor="north", details=head.details())
    files = [tmp_path / "hub.jsonl", tmp_path / "north.jsonl"]
    given = [argument for key in keys.values() for argument in ("--key", key.public.text)]
    told = command("audit", "verify", *files, *given)
    assert told.status == 0, told.err
    assert "1 signed heads were compared: the logs agree" in told.out

    # The newest entry goes: alone the log is intact, beside the other it is not.
    files[1].write_text("".join(files[1].read_text().splitlines(keepends=True)[:2]))
    assert command("audit", "verify", files[1], "--key", keys["north"].public.text).status == 0
    told = command("audit", "verify", *files, *given)
    assert told.status == 4
    assert f"{files[1]} has no entry 3, but line 4 of {files[0]} has its head" in told.out
    told = command("audit", "verify", "--json", *files, *given)
    document = json.loads(told.out)
    assert (document["intact"], document["disagreements"][0]["witness_line"]) == (False, 4)
    assert command("audit", "verify", *files, *given, "--anchor", f"1:{'0' * 64}").status == 2
