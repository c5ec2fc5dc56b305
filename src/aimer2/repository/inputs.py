"""What a model reads: one list for its card and for what is exported."""

from __future__ import annotations

from typing import Any

from aimer2.core.study import Cohort


def inputs_of(asked: Cohort) -> list[dict[str, Any]]:
    """The image with its form, then the columns in order, each with its feature; of a category each level but the first is a column of 0 and 1."""
    found: list[dict[str, Any]] = []
    if asked.image is not None:
        found.append({"kind": "image", **asked.image.model_dump(mode="json", exclude_none=True)})
    for feature in asked.features:
        document = feature.model_dump(mode="json", exclude_none=True)
        found += [document | {"level": level} for level in feature.categories[1:]] if feature.kind == "category" else [document]
    return found
