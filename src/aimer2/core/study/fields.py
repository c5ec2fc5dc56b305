"""Forms of names and values that several parts of a study share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
CODE = r"^[A-Za-z0-9_-]+\.py$"
WEIGHTS = r"^[A-Za-z0-9_.-]+\.safetensors$"
METHOD = r"^[a-z][a-z0-9_]*$"
Scalar = bool | int | float | str
ColumnName = Annotated[str, Field(min_length=1, max_length=100)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _present(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("missing", "Field required")
    return value


Present = BeforeValidator(_present)
"""Of a field that only some studies have: the study puts None where it is wanted and was not given."""


def unset(value: object) -> bool:
    """Whether a field that came after version 0.1 is left out: it is then not written, so that older studies keep their digests."""
    return value is None or value in ((), {})
