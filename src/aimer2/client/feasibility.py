"""A feasibility question, before a study is written: how many patients of all hospitals meet its criteria, in rounded numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aimer2.client.questions import Asked, Terms
from aimer2.core.errors import BadInput
from aimer2.core.study import Study

_COLUMN = re.compile(r"\s*(\w+)")
_PURPOSE = "Feasibility: whether there are enough patients for a study that is not written yet"


def feasibility(
    criteria: Sequence[str],
    *,
    dataset: str,
    categories: Mapping[str, Sequence[str]] | None = None,
    to_nearest: int = 10,
    terms: Terms | None = None,
) -> Study:
    """The study that asks nothing but this; to be submitted, or simulated, as any other, its answer being a table.

    ``criteria``: as "age >= 60" or "sex = f", one after the other. ``categories``: of the columns that are no numbers. Raises BadInput, BadStudy.
    """
    found = [_COLUMN.match(one) for one in criteria]
    if not found or None in found:
        raise BadInput('Give criteria such as "age >= 60" or "sex = f".')
    columns = dict.fromkeys(one[1] for one in found if one is not None)
    asked = Asked(
        method="feasibility",
        formula="~ " + " + ".join(columns),
        dataset=dataset,
        options={"criteria": tuple(criteria), "to_nearest": to_nearest},
        columns=[{"name": name, "kind": "category", "categories": tuple(levels)} for name, levels in (categories or {}).items()],
        rounds=1,
        terms=terms or Terms(purpose=_PURPOSE),
    )
    question = f"How many patients meet: {', then '.join(criteria)}?"
    return asked.study().model_copy(update={"name": "feasibility", "question": question[:2000]})
