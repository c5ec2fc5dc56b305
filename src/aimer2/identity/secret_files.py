"""Files that hold a secret: readable by their owner alone, complete or absent, never overwritten."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from aimer2.core.errors import Conflict, NotAllowed, NotFound
from aimer2.core.said import say

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600; after a crash it is there whole or not at all.

    Raises Conflict if the file exists (a key that is overwritten cannot be had back), NotFound if its folder does not.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError as error:
        raise NotFound(say("The folder {parent} does not exist.", parent=path.parent), remedy="Make the folder first.") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A hard link, unlike a rename, fails when the name is taken.
        os.link(draft, path)
    except FileExistsError as error:
        raise Conflict(say("{path} exists and is not overwritten.", path=path), remedy="Move the old file away if you mean to replace it.") from error
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read_secret(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises NotFound if there is none, NotAllowed if the group or others may read, write or run it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise NotFound(say("There is no file {path}.", path=path)) from error
    with open(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise NotAllowed(
                say("{path} holds a secret, but other users of this machine have access to it (mode {mode}).", path=path, mode=f"{mode:04o}"),
                remedy=say("Run `chmod 600 {path}`. If others may have read it already, make a new key.", path=path),
            )
        return file.read()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
