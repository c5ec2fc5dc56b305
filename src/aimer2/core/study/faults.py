"""What pydantic finds in a study, as faults with their place and remedy."""

from __future__ import annotations

from pydantic import ValidationError

from aimer2.core.errors import Fault
from aimer2.core.study.fields import CODE, METHOD, NAME, WEIGHTS

_REMEDIES = {
    "missing": "add it",
    "extra_forbidden": "remove it, or look for the right spelling in docs/study-file.md",
    "literal_error": "use one of the listed values",
    NAME: "use lower-case letters, digits and '-'",
    METHOD: "use lower-case letters, digits and '_'",
    CODE: "name a file beside the study, for example model.py",
    WEIGHTS: "name a file beside the study, for example base.safetensors",
}

_ALTERNATIVES = {
    "datetime": ("is neither a date nor a moment with its time zone", "write 2030-06-30 or 2030-06-30T12:00:00Z"),
    "date": ("is neither a date nor a moment with its time zone", "write 2030-06-30 or 2030-06-30T12:00:00Z"),
    **dict.fromkeys(("bool", "int", "float", "str", "tuple"), ("is not a number, a text, true or false, nor a list of them", "correct the value")),
}
"""Where a value may be of several types, the type tried last in a fault's place: what to say once instead of once for each."""


def faults_of(error: ValidationError) -> list[Fault]:
    """Every fault that pydantic found, with its place in the document."""
    faults = []
    for found in error.errors(include_url=False, include_input=False):
        location, tried = _place(found["loc"])
        place = ".".join(f"[{part + 1}]" if isinstance(part, int) else part for part in location).replace(".[", "[")
        kind = found.get("ctx", {}).get("pattern", found["type"])
        problem = {"missing": "is missing", "extra_forbidden": "is not a field of a study"}.get(kind, found["msg"].removeprefix("Value error, "))
        told = _ALTERNATIVES[tried] if tried else (problem, _REMEDIES.get(kind, "correct the value"))
        faults.append(Fault(place or "study", *told))
    return list(dict.fromkeys(faults))


def _place(location: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], str]:
    """The place in the document, and the type that was tried there where there is a choice."""
    for depth, part in enumerate(location[1:], 1):
        name = str(part).partition("[")[0]
        if name in _ALTERNATIVES:
            return location[:depth], name
    return location, ""
