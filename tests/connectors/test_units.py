from __future__ import annotations

import pytest

from aimer2.connectors.units import _UNITS, conversion


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (170.0, "cm", "m", 1.7),
        (12.0, "mm", "cm", 1.2),
        (70_000.0, "g", "kg", 70.0),
        (150.0, "[lb_av]", "kg", 68.0388555),
        (98.6, "[degF]", "Cel", 37.0),
        (37.0, "Cel", "[degF]", 98.6),
        (310.15, "K", "Cel", 37.0),
        (36.0, "h", "d", 1.5),
        (2.0, "a", "mo", 24.0),
        (120.0, "mm[Hg]", "kPa", 15.9986864898),
        (14.0, "g/dL", "g/L", 140.0),
        (90.0, "umol/L", "mmol/L", 0.09),
        (5.0, "ng/mL", "ug/L", 5.0),
        (55.0, "%", "1", 0.55),
    ],
)
def test_known_conversions(value: float, source: str, target: str, expected: float) -> None:
    found = conversion(source, target)
    assert found is not None
    assert value * found[0] + found[1] == pytest.approx(expected, rel=1e-9)


def test_there_and_back_is_where_it_was() -> None:
    for source in _UNITS:
        for target in _UNITS:
            there, back = conversion(source, target), conversion(target, source)
            assert (there is None) == (back is None)
            if there is not None and back is not None:
                assert (7.25 * there[0] + there[1]) * back[0] + back[1] == pytest.approx(7.25, rel=1e-6)


@pytest.mark.parametrize(("source", "target"), [("mg/dL", "mmol/L"), ("cm", "kg"), ("furlong", "m")])
def test_what_needs_more_than_the_units_is_not_guessed(source: str, target: str) -> None:
    assert conversion(source, target) is None
