"""What is new in a study since this hospital last saw one of that name: its document field by field, its code line by line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from aimer2.messages.package import Package
from aimer2.site.decisions import Decisions
from aimer2.site.store import KnownStudy


@final
@dataclass(frozen=True, slots=True)
class Changes:
    """``fields``: place, before, now; ``code``: a unified difference for each file that is not the same."""

    since: KnownStudy
    fields: Sequence[tuple[str, str, str]]
    code: Mapping[str, str]


def code_of(decisions: Decisions, known: KnownStudy) -> dict[str, str]:
    """The texts of the files that a study brings, by name."""
    if known.package is None:
        return {}
    files = decisions.folder.study(known.digest) / "files"
    return {name: (files / name).read_text(encoding="utf-8", errors="replace") for name in known.package.files}


def changes(decisions: Decisions, known: KnownStudy) -> Changes | None:
    """Since the study of the same name that was here before; None where there was none."""
    before = _before(decisions, known)
    if before is None or before.package is None or known.package is None:
        return None
    old, new = _flat(_document(before.package)), _flat(_document(known.package))
    fields = [(place, old.get(place, ""), new.get(place, "")) for place in sorted(old.keys() | new.keys()) if old.get(place) != new.get(place)]
    return Changes(before, fields, dict(_code(code_of(decisions, before), code_of(decisions, known))))


def _before(decisions: Decisions, known: KnownStudy) -> KnownStudy | None:
    found = None
    for study in decisions.store.studies():
        if study.digest == known.digest:
            return found
        if study.package is not None and known.package is not None and study.package.study.name == known.package.study.name:
            found = study
    return found


def _document(package: Package) -> dict[str, Any]:
    document: dict[str, Any] = package.model_dump(mode="json")
    # Files have a difference of their own; the untrained weights are numbers.
    document.pop("files")
    study = document.pop("study")
    return {**study, **document}


def _flat(value: Any, place: str = "") -> dict[str, str]:
    """Each value under the path that leads to it; entries of a list that have a name go by it."""
    if isinstance(value, dict) and value:
        return {path: text for name, inner in value.items() for path, text in _flat(inner, f"{place}.{name}" if place else name).items()}
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        named = [(str(inner.get("name", number)) if isinstance(inner, dict) else str(number), inner) for number, inner in enumerate(value, 1)]
        return {path: text for name, inner in named for path, text in _flat(inner, f"{place}[{name}]").items()}
    return {place: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _code(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines = difflib.unified_diff(old.get(name, "").splitlines(), new.get(name, "").splitlines(), "before", "now", lineterm="")
            yield name, "\n".join(lines)
