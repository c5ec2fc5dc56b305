"""What is asked of Landlock, version by version, and that older kernels get what they know."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

from aimer2.site.sandbox import kernel, landlock

RIGHTS = {0: 0, 1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 6: 0xFFFF, 7: 0xFFFF, 8: 0xFFFF, 9: 0x1FFFF}


@pytest.mark.parametrize("version", range(1, 10))
def test_every_right_of_a_version_is_handled(version: int) -> None:
    assert landlock.file_rights(version) == RIGHTS[version]


@pytest.mark.parametrize("version", range(1, 10))
def test_older_versions_are_asked_only_what_they_know(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, ...]] = []

    def record(number: int, *arguments: int) -> int:
        if number == 444:
            asked.append((ctypes.string_at(arguments[0], arguments[1]),))
        else:
            asked.append((ctypes.string_at(arguments[2], 12),))
        return 0

    monkeypatch.setattr(kernel, "syscall", record)
    (tmp_path / "file").touch()
    landlock.ruleset(version, [tmp_path, tmp_path / "file"], [tmp_path])
    (attributes,), (read_folder,), (read_file,), (write_folder,), (null,) = asked
    expected = (RIGHTS[version], *([3] if version >= 4 else []), *([3] if version >= 6 else []))
    assert struct.unpack(f"={len(expected)}Q", attributes) == expected
    allowed = [struct.unpack("=Qi", rule)[0] for rule in (read_folder, read_file, write_folder, null)]
    assert allowed[:2] == [0b1101, 0b0101]  # execute, read file, read folder
    assert allowed[2] == RIGHTS[version] & 0xFFFE  # never execute, never a named socket
    assert all(rights & ~RIGHTS[version] == 0 for rights in allowed)


def test_the_kernels_version_is_one_we_know() -> None:
    assert 0 <= landlock.abi() <= landlock.NEWEST_KNOWN
