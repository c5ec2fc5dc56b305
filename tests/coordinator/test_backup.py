"""Backups: whole or refused."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Server

from aimer2.core.errors import Conflict, Tampered


@pytest.fixture
def backup(make_server: Callable[..., Server], tmp_path: Path) -> tuple[Server, Path]:
    server = make_server()
    server.command("invite", "charite")
    server.command("backup", str(tmp_path / "backup.tar"))
    return server, tmp_path / "backup.tar"


def rewrite(file: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with tarfile.open(file) as old:
        members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    with tarfile.open(file, "w") as new:
        for name, data in members:
            changed = change(name, data)
            if changed is not None:
                member = tarfile.TarInfo(name)
                member.size = len(changed)
                new.addfile(member, io.BytesIO(changed))


def test_what_is_restored_is_what_was_there(backup: tuple[Server, Path], tmp_path: Path) -> None:
    server, file = backup
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = Server(tmp_path / "restored", server.port)
    restored.command("restore", str(file))
    for name in ("coordinator.toml", "keys/signing.pem", "tls/certificate.pem"):
        assert (restored.folder / name).read_bytes() == (server.folder / name).read_bytes()
    assert stat.S_IMODE((restored.folder / "keys/signing.pem").stat().st_mode) == 0o600
    restored.command("sites")


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: data.replace(b"port", b"Port") if name == "coordinator.toml" else data,
        lambda name, data: None if name == "audit.jsonl" else data,
        lambda name, data: None if name == "manifest.json" else data,
    ],
    ids=["changed", "missing", "unfinished"],
)
def test_a_backup_that_is_not_whole_leaves_nothing(backup: tuple[Server, Path], tmp_path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    server, file = backup
    rewrite(file, change)
    with pytest.raises(Tampered):
        Server(tmp_path / "restored", server.port).command("restore", str(file))
    assert not (tmp_path / "restored").exists()
    assert not list(tmp_path.glob(".restore-*"))


def test_a_cut_backup_is_refused(backup: tuple[Server, Path], tmp_path: Path) -> None:
    server, file = backup
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(Tampered):
        Server(tmp_path / "restored", server.port).command("restore", str(file))


def test_nothing_is_overwritten(backup: tuple[Server, Path]) -> None:
    server, file = backup
    with pytest.raises(Conflict):
        server.command("backup", str(file))
    with pytest.raises(Conflict):
        server.command("restore", str(file))
    with pytest.raises(Conflict):
        server.command("init")
