"""What a regression explains: whether a family can have such an outcome, in the question and in the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aimer2.core.dataset import Frame
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.study.formula import Formula
from aimer2.statistics.design import Floats, numbers
from aimer2.statistics.families import FamilyName


def categories_against(formula: Formula, features: Sequence[Feature], family: FamilyName) -> Iterator[str]:
    """What is wrong with an outcome that is a category, before any data."""
    feature = next(one for one in features if one.name == formula.response[0].name)
    if feature.categories and (family != "binomial" or len(feature.categories) != 2):
        yield f"the response {feature.name} is a category: family = 'binomial' takes one of two categories, the second being the event"


def outcome(formula: Formula, rows: Frame, family: FamilyName) -> Floats:
    """Each row's ``(n,)``. Raises BadData where the family has none such."""
    y = numbers(formula.response[0], rows)
    fits = {"gaussian": np.isfinite(y), "binomial": (y >= 0) & (y <= 1), "gamma": y > 0}.get(family, y >= 0)
    if not fits.all():
        raise BadData(
            say("{response} has values that a {family} response cannot have.", response=formula.response[0], family=family.replace("_", " "))
        )
    return y
