"""A study as TOML, as `study.toml` holds it: what a person goes on writing from. Read again, it is the same study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aimer2.core.study.study import Study


def study_text(study: Study) -> str:
    """Without what is as it would be anyway."""
    document = study.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return "\n".join(_table(document, ())).strip() + "\n"


def _table(fields: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    """What is no table comes first, as TOML wants it; ``place``: the keys that lead here."""
    tables = {name: value for name, value in fields.items() if _is_table(value)}
    yield from (f"{_key(name)} = {_value(value)}" for name, value in fields.items() if name not in tables)
    for name, value in tables.items():
        path = (*place, name)
        title = ".".join(map(_key, path))
        for each in value if isinstance(value, list) else [value]:
            yield ""
            yield f"[[{title}]]" if isinstance(value, list) else f"[{title}]"
            yield from _table(each, path)


def _is_table(value: Any) -> bool:
    return bool(value) and (isinstance(value, Mapping) or (isinstance(value, list) and all(isinstance(one, Mapping) for one in value)))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON's strings, numbers and truths are TOML's as well, but for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    plain = name.isascii() and bool(name) and all(letter.isalnum() or letter in "-_" for letter in name)
    return name if plain else _value(name)
