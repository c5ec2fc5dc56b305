"""Conversion between units of the same quantity, by their UCUM codes.

Amount and mass of a substance (mmol/L and mg/dL) differ by its molar mass: a mapping gives that as an explicit ``factor``.
"""

from __future__ import annotations

from collections.abc import Mapping

# Unit: quantity, and factor and offset to the quantity's first unit (base = value × factor + offset).
_UNITS: Mapping[str, tuple[str, float, float]] = {
    "m": ("length", 1.0, 0.0),
    "cm": ("length", 0.01, 0.0),
    "mm": ("length", 0.001, 0.0),
    "[in_i]": ("length", 0.0254, 0.0),
    "[ft_i]": ("length", 0.3048, 0.0),
    "kg": ("mass", 1.0, 0.0),
    "g": ("mass", 1e-3, 0.0),
    "mg": ("mass", 1e-6, 0.0),
    "ug": ("mass", 1e-9, 0.0),
    "[lb_av]": ("mass", 0.45359237, 0.0),
    "Cel": ("temperature", 1.0, 0.0),
    "[degF]": ("temperature", 5 / 9, -160 / 9),
    "K": ("temperature", 1.0, -273.15),
    "s": ("time", 1.0, 0.0),
    "min": ("time", 60.0, 0.0),
    "h": ("time", 3_600.0, 0.0),
    "d": ("time", 86_400.0, 0.0),
    "wk": ("time", 604_800.0, 0.0),
    "mo": ("time", 2_629_800.0, 0.0),
    "a": ("time", 31_557_600.0, 0.0),
    "L": ("volume", 1.0, 0.0),
    "dL": ("volume", 0.1, 0.0),
    "mL": ("volume", 0.001, 0.0),
    "kPa": ("pressure", 1.0, 0.0),
    "mm[Hg]": ("pressure", 0.133322387415, 0.0),
    "g/L": ("mass concentration", 1.0, 0.0),
    "g/dL": ("mass concentration", 10.0, 0.0),
    "mg/dL": ("mass concentration", 0.01, 0.0),
    "mg/L": ("mass concentration", 1e-3, 0.0),
    "ug/L": ("mass concentration", 1e-6, 0.0),
    "ng/mL": ("mass concentration", 1e-6, 0.0),
    "mol/L": ("amount concentration", 1.0, 0.0),
    "mmol/L": ("amount concentration", 1e-3, 0.0),
    "umol/L": ("amount concentration", 1e-6, 0.0),
    "1": ("fraction", 1.0, 0.0),
    "%": ("fraction", 0.01, 0.0),
}


def conversion(source: str, target: str) -> tuple[float, float] | None:
    """Factor and offset with ``target = source × factor + offset``; None where the units are unknown or of different quantities."""
    if source == target:
        return 1.0, 0.0
    if source not in _UNITS or target not in _UNITS:
        return None
    quantity, factor, offset = _UNITS[source]
    other, divisor, shift = _UNITS[target]
    return (factor / divisor, (offset - shift) / divisor) if quantity == other else None
