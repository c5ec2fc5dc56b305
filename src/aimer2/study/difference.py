"""What has changed from one version of a study to the next: every field with both values, and every line of code, for a person to read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aimer2.messages.package import Package

_NOT_THERE = object()


def changed_fields(old: Package, new: Package) -> list[str]:
    """One line per field: where it stands in the study (entries of lists by their name), its old value → its new one. Nothing is cut short."""
    before, after = _flat(_readable(old)), _flat(_readable(new))
    return [_line(place, before.get(place, _NOT_THERE), after.get(place, _NOT_THERE)) for place in _places(before, after)]


def changed_code(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Of each file that differs, a unified diff with three lines around each change."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        theirs, ours = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        lines += difflib.unified_diff(theirs, ours, f"{name} before", f"{name} now", lineterm="")
    return lines


def _readable(package: Package) -> dict[str, Any]:
    """The study, and of what it rests on that which a person can compare."""
    rest = {
        "roster": dict(package.roster),
        "method version": package.method_version,
        "method versions": dict(package.versions),
        "untrained weights (SHA-256)" if package.study.evaluates is None else "weights (SHA-256)": package.initial.sha256,
        "code (SHA-256)": {name: ref.sha256 for name, ref in package.files.items()},
    }
    return package.study.model_dump(mode="json") | rest


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {inner: leaf for key, part in value.items() for inner, leaf in _flat(part, f"{place}.{key}" if place else str(key)).items()}
    if _is_named(value):
        return {inner: leaf for part in value for inner, leaf in _flat(part, f"{place}[{part['name']}]").items()}
    return {place: value}


def _is_named(value: Any) -> bool:
    """A list of documents with names of their own: columns, analyses."""
    if not isinstance(value, list) or not value or not all(isinstance(part, dict) and part.get("name") for part in value):
        return False
    return len({part["name"] for part in value}) == len(value)


def _places(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """In the order of the new version; what is gone comes last."""
    order: Sequence[str] = [*after, *(place for place in before if place not in after)]
    # A dictionary or list that was empty, or is now, has one place where its parts have many: the parts tell.
    return (place for place in order if before.get(place, _NOT_THERE) != after.get(place, _NOT_THERE))


def _line(place: str, old: Any, new: Any) -> str:
    if old is _NOT_THERE:
        return f"{place}: new: {_said(new)}"
    if new is _NOT_THERE:
        return f"{place}: gone; it was {_said(old)}"
    return f"{place}: {_said(old)} → {_said(new)}"


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
