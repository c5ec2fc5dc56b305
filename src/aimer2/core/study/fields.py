"""Forms of names and values that several parts of a study share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
CODE = r"^[A-Za-z0-9_-]+\.py$"
WEIGHTS = r"^[A-Za-z0-9_.-]+\.safetensors$"
METHOD = r"^[a-z][a-z0-9_]*$"
Scalar = bool | int | float | str
ColumnName = Annotated[str, Field(min_length=1, max_length=100)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def unset(value: object) -> bool:
    """Whether a field that came after version 0.1 is left out: it is then not written, so that older studies keep their digests."""
    return value in ((), None)
