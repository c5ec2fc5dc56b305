"""Files that pages need, each under a name that holds its digest: a browser keeps it for good, and a new version has a new name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png"}
_DIGITS = 16


@final
@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str


@final
class Assets:
    """The files of the rooms' folders `assets`, read once, and ``more`` that is made: texts by name. What is not among them does not exist."""

    def __init__(self, rooms: Sequence[Path], more: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._found: dict[str, Asset] = {}
        for room in rooms:
            for path in sorted((room / "assets").glob("*")):
                self._add(path.name, path.read_bytes())
        for name, text in more.items():
            self._add(name, text.encode())

    def _add(self, name: str, content: bytes) -> None:
        stem, _, ending = name.rpartition(".")
        served = f"{stem}.{hashlib.sha256(content).hexdigest()[:_DIGITS]}.{ending}"
        self._names[name] = served
        self._found[served] = Asset(content, MEDIA_TYPES[f".{ending}"])

    def address(self, name: str) -> str:
        """Where a page finds the file of this name."""
        return f"/static/{self._names[name]}"

    def find(self, served: str) -> Asset | None:
        return self._found.get(served)
