from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import click
import pytest

from aimer2.cli.site import site
from aimer2.core.errors import BadInput, Conflict
from aimer2.identity.keys import SigningKey
from aimer2.site.bundle import Process, make_bundle, unit, write_sums
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import CoordinatorAddress, first_settings, read_settings


def _command(name: str) -> click.Command:
    found = site.get_command(click.Context(site), name)
    assert found is not None
    return found


@pytest.mark.parametrize(("process", "command", "service"), [("agent", "run", "aimer2-site"), ("console", "console", "aimer2-console")])
def test_the_unit_names_folder_and_user_and_shuts_the_rest_out(tmp_path: Path, process: Process, command: str, service: str) -> None:
    text = unit(SiteFolder(tmp_path), "aimer2", process)
    assert f"ReadWritePaths={tmp_path}\n" in text and "User=aimer2\n" in text and f"enable --now {service}\n" in text
    # What it starts is a command that there is, with options that it has.
    started = shlex.split(next(line for line in text.splitlines() if line.startswith("ExecStart=")))
    assert started[1:] == ["-I", "-m", "aimer2", "site", command, "--folder", str(tmp_path)]
    assert "folder" in {option.name for option in _command(command).params}
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="} <= set(text.splitlines())
    assert "{" not in text


def test_the_sums_of_a_bundle_are_checked_by_the_usual_tool(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(b"wheel")
    (tmp_path / "install.sh").write_text("x")
    write_sums(tmp_path)
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "wheels" / "a.whl").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_a_bundle_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        make_bundle(tmp_path, "", None)


def test_the_first_settings_are_read_back_whatever_the_coordinator_is_called(tmp_path: Path) -> None:
    address = CoordinatorAddress(url="https://c.example", name='He said "hi"\\ \n[worker]', key=SigningKey.generate().public.text)
    (tmp_path / "site.toml").write_text(first_settings("north", address))
    assert read_settings(tmp_path / "site.toml").coordinator == address


def test_every_fault_of_the_settings_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('site = "North!"\n[coordinator]\nurl = "http://x"\nname = "x"\nkey = "y"\n[worker]\nthreads = 0\n')
    with pytest.raises(BadInput) as raised:
        read_settings(tmp_path / "site.toml")
    assert all(part in raised.value.sentence for part in ("site", "coordinator.url", "worker.threads"))
