"""From a site's table to what a model sees: the study's columns in its order, images or both, held-out patients, missing cells, standardisation.

Every sentence raised here names columns as the study names them and counts patients, fewer than the site's minimum cell
never exactly; none quotes a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.connectors.table import Column, Kind, Table, count_patients
from aimer2.core.dataset import Part, Samples, part_at
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Cohort, Feature, Image, Target
from aimer2.privacy.disclosure import MINIMUM_CELL, coarse, least
from aimer2.study.images import Beside, Masks, Pictures, check_image, check_mask, strange

Rows = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """The study's view of a table: one row per row with a target, one column per number and per category level but the first; and its images.

    ``features`` float64 ``(n, p)``, NaN where missing (a missing category: in all its levels); ``numeric`` ``(p,)`` says which columns are
    numbers; ``targets`` int64 classes or float64 values ``(n,)``, int64 labels ``(n, L)``, or float64 times and events (0, 1) ``(n, 2)``;
    ``groups`` float64 ``(n, groups)`` as of `Samples`, where the study names a group; ``dropped`` counts the rows that lack a target, or a
    part of it. A study of images alone has no columns.
    """

    names: tuple[str, ...]
    numeric: Rows
    features: Floats
    targets: Part
    patient: npt.NDArray[np.uint64]
    dropped: int = 0
    groups: Floats | None = None
    images: Part | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: Rows) -> Design:
        groups = None if self.groups is None else self.groups[rows]
        images = None if self.images is None else part_at(self.images, rows)
        targets = part_at(self.targets, rows)
        return Design(self.names, self.numeric, self.features[rows], targets, self.patient[rows], self.dropped, groups, images)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of each design column over the cells that are not missing: how many, mean, standard deviation (n - 1), each float64 ``(p,)``."""

    count: Floats
    mean: Floats
    deviation: Floats


def design_names(cohort: Cohort) -> tuple[str, ...]:
    """What the model sees, in order: `age`, and of a category each level but the first, `sex = male`. Known without any data."""
    return tuple(name for feature in cohort.features for name in _names(feature))


def numeric_columns(cohort: Cohort) -> tuple[bool, ...]:
    """Of each column in the same order whether it is a number."""
    return tuple(feature.kind == "number" for feature in cohort.features for _ in _names(feature))


def design_width(cohort: Cohort) -> int:
    return sum(feature.width for feature in cohort.features)


def feature_shape(cohort: Cohort) -> tuple[int, ...]:
    """Of one row: of columns ``(p,)``; of images ``(channels, height, width)``, each column beside them one channel more."""
    if cohort.image is None:
        return (design_width(cohort),)
    channels, height, width = cohort.image.shape
    return channels + design_width(cohort), height, width


def design(cohort: Cohort, table: Table) -> Design:
    """The columns that the study asks for.

    Raises BadData where a column is not there, has another kind or unit, a category the study does not list, or a value out of range.
    """
    features = _columns(cohort, table)
    images = None if cohort.image is None else _pictures(cohort.image, table)
    parts: list[Any] = []
    for asked in cohort.target.columns:
        column = find(table, asked.name)
        check_kind(asked, column)
        check_unit(asked, column)
        check_categories(asked, column, table)
        parts.append(_masks(cohort, asked, table) if asked.kind == "segmentation" else _targets(asked, column))
    check_times(cohort.target, table)
    known = ~without_target(cohort.target, table)
    return Design(
        names=design_names(cohort),
        numeric=np.array(numeric_columns(cohort), bool),
        features=features[known],
        targets=part_at(parts[0] if len(parts) == 1 else np.stack(parts, axis=1), known),
        patient=table.patient[known],
        dropped=int((~known).sum()),
        groups=None if cohort.group is None else _groups(cohort.group, table)[known],
        images=None if images is None else images.at(known),
    )


def _columns(cohort: Cohort, table: Table) -> Floats:
    blocks = [np.empty((len(table), 0))]
    for feature in cohort.features:
        column = find(table, feature.name)
        check_kind(feature, column)
        check_unit(feature, column)
        check_categories(feature, column, table)
        check_range(feature, column, table)
        blocks.append(_block(feature, column))
    return np.hstack(blocks)


def _pictures(wanted: Image, table: Table) -> Pictures:
    column = find(table, wanted.name)
    check_image(wanted, column)
    return Pictures.of(column, wanted)


def _masks(cohort: Cohort, target: Target, table: Table) -> Masks:
    if cohort.image is None:
        raise BadData("A segmentation tells a class for each pixel of an image, and the study names no images.")
    column = find(table, target.name)
    check_mask(cohort.image, target.name, column, find(table, cohort.image.name))
    return Masks.of(column, cohort.image, target.categories)


def split(whole: Design, fraction: float) -> tuple[Design, Design]:
    """Training and held-out rows, by patient: one whose mixed pseudonym is below ``fraction`` of the range is held out, with all rows.

    The side depends on the pseudonym alone (an HMAC under the site's key), so it is the same in every study of the data set, and new
    patients move nobody. A larger fraction holds out all that a smaller one does.
    """
    if fraction == 1:
        return whole.at(np.zeros(len(whole), bool)), whole
    held_out = _mixed(whole.patient) < np.uint64(int(fraction * 2**64))
    return whole.at(~held_out), whole.at(held_out)


def own_moments(whole: Design) -> Moments:
    """Over the rows of this design alone, as `aimer2.statistics.moments` has them over all sites. Without a value: mean 0, deviation 0."""
    features = whole.features
    there = ~np.isnan(features)
    count = there.sum(axis=0).astype(np.float64)
    mean = np.where(there, features, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(there, features - mean, 0.0) ** 2
    return Moments(count, mean, np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1)))


def incomplete(whole: Design) -> Rows:
    """The rows in which a feature is missing."""
    return np.asarray(np.isnan(whole.features).any(axis=1))


def complete(whole: Design, cohort: Cohort, moments: Moments) -> Samples:
    """Samples without a missing cell, unless the study keeps them; numbers standardised: ``(x - mean) / deviation``, a constant column only
    shifted; or by the study's range.

    The study's rule for missing features: `refuse` raises BadData; `drop` leaves the row out; `mean` puts the mean of ``moments``, `zero` the
    raw number 0 (before standardising), and under both a missing category is 0 in all its levels; `keep` leaves the gaps, NaN. Images are
    prepared as they are read, the columns that stand beside them are prepared here.
    """
    if cohort.missing == "drop":
        whole = whole.at(~incomplete(whole))
    features = whole.features.copy()
    missing = np.isnan(features)
    if cohort.missing == "refuse":
        check_complete(cohort, whole)
    elif cohort.missing in ("mean", "zero"):
        features = np.where(missing, in_place_of_missing(cohort, whole.numeric, moments), features)
    shift, divisor = scaling(cohort, whole.numeric, moments)
    columns = np.ascontiguousarray((features - shift) / divisor)
    if whole.images is None:
        return Samples(columns, whole.targets, whole.patient, whole.groups)
    seen = Beside(whole.images, columns.astype(np.float32)) if cohort.features else whole.images
    return Samples(seen, whole.targets, whole.patient, whole.groups)


def in_place_of_missing(cohort: Cohort, numeric: Rows, moments: Moments) -> Floats:
    """Of each design column ``(p,)`` what a missing cell becomes under the rules `mean` and `zero`."""
    return np.where(numeric, moments.mean, 0.0) if cohort.missing == "mean" else np.zeros(len(numeric))


def scaling(cohort: Cohort, numeric: Rows, moments: Moments) -> tuple[Floats, Floats]:
    """Of each design column ``(p,)`` what is subtracted and what it is then divided by; 0 and 1 where it stays as it is."""
    if cohort.standardise == "none":
        return np.zeros(len(numeric)), np.ones(len(numeric))
    if cohort.standardise == "range":
        return _by_range(cohort)
    # Of a constant column rounding may leave a deviation; divided by it, the rounding would become the signal.
    rounding = moments.count * np.finfo(np.float64).eps * np.abs(moments.mean)
    divisor = np.where(moments.deviation <= rounding, 1.0, moments.deviation)
    return np.where(numeric, moments.mean, 0.0), np.where(numeric, divisor, 1.0)


def _by_range(cohort: Cohort) -> tuple[Floats, Floats]:
    """Numbers from -1 at the study's minimum to 1 at its maximum: of no patient's data, so it tells nothing of them."""
    sources = [feature for feature in cohort.features for _ in _names(feature)]
    middle, half = np.zeros(len(sources)), np.ones(len(sources))
    for column, source in enumerate(sources):
        if source.minimum is not None and source.maximum is not None:
            middle[column] = (source.maximum + source.minimum) / 2
            half[column] = (source.maximum - source.minimum) / 2 or 1.0
    return middle, half


def coded(column: Feature, table: Table) -> Floats:
    """The values of a column that meets the contract ``(n,)``: numbers, or codes in the study's order of categories; NaN where missing."""
    found = find(table, column.name)
    if column.kind == "number":
        return np.array(found.values, np.float64)
    codes = _codes(column, found)
    return np.where(codes == -1, np.nan, codes.astype(np.float64))


def find(table: Table, name: str) -> Column:
    if name not in table.columns:
        raise BadData(say("There is no column {name}.", name=f"{name!r}"))
    return table.columns[name]


def check_kind(asked: Feature | Target, column: Column) -> None:
    kind = _kind(asked, column)
    if column.kind != kind:
        raise BadData(say("Column {name} is a {kind}, the study asks for a {asked}.", name=f"{asked.name!r}", kind=column.kind, asked=kind))


def check_unit(asked: Feature | Target, column: Column) -> None:
    if asked.unit is not None and column.unit != asked.unit:
        if column.unit is None:
            raise BadData(say("Column {name} has no declared unit, the study asks for {unit}.", name=repr(asked.name), unit=asked.unit))
        raise BadData(say("Column {name} is in {has}, the study asks for {unit}.", name=repr(asked.name), has=column.unit, unit=asked.unit))


def check_categories(asked: Feature | Target, column: Column, table: Table) -> None:
    """Also that a binary target without categories is 0 or 1."""
    if column.kind in ("category", "mask"):
        levels = set(_levels(asked))
        unknown = [code for code, level in enumerate(column.categories) if level not in levels]
        rows = strange(column, unknown) if column.kind == "mask" else np.isin(column.values, unknown)
        check_none(rows, table, "Column {name} has a category that the study does not list, for {patients}.", name=repr(asked.name))
    elif asked.kind == "binary":
        strange_rows = ~np.isin(column.values, (0.0, 1.0)) & ~column.missing
        check_none(strange_rows, table, "Column {name} is to be 0 or 1, but is something else for {patients}.", name=repr(asked.name))


def check_range(feature: Feature, column: Column, table: Table) -> None:
    low = -np.inf if feature.minimum is None else feature.minimum
    high = np.inf if feature.maximum is None else feature.maximum
    outside = (column.values < low) | (column.values > high)
    message = "Column {name} is out of the study's range from {low} to {high} for {patients}."
    check_none(outside, table, message, name=repr(feature.name), low=f"{low:g}", high=f"{high:g}")


def check_times(target: Target, table: Table) -> None:
    """Raises BadData where a time to an event lies below 0."""
    if target.kind == "survival":
        early = np.asarray(find(table, target.name).values < 0)
        check_none(early, table, "Column {name} is a time before the start for {patients}.", name=repr(target.name))


def without_target(target: Target, table: Table) -> Rows:
    """The rows in which the target, or a part of it, is missing."""
    return np.asarray(np.any([find(table, column.name).missing for column in target.columns], axis=0))


def check_complete(cohort: Cohort, whole: Design, minimum_cell: int = MINIMUM_CELL) -> None:
    """Raises BadData naming the features in which a cell is missing."""
    missing = np.isnan(whole.features)
    if missing.any():
        sources = [feature.name for feature in cohort.features for _ in _names(feature)]
        faults = dict.fromkeys(sources[number] for number in np.flatnonzero(missing.any(axis=0)))
        patients = about(whole.patient[missing.any(axis=1)], minimum_cell)
        raise BadData(
            say("Missing in {faults}, for {patients}; the study refuses missing features.", faults=", ".join(map(repr, faults)), patients=patients)
        )


def check_none(rows: Rows, table: Table, problem: str, **values: object) -> None:
    """Raises BadData where there is such a row; `{patients}` in the problem becomes about how many patients."""
    if rows.any():
        raise BadData(say(problem, **values, patients=about(table.patient[rows], table.minimum_cell)))


def about(patient: npt.NDArray[np.uint64], minimum_cell: int) -> str:
    """How many patients, as it may be told outside the site."""
    rounded = coarse(count_patients(patient), minimum_cell)
    return say("fewer than {least} patients", least=least(minimum_cell)) if rounded is None else say("about {count} patients", count=rounded)


def _names(feature: Feature) -> list[str]:
    return [f"{feature.name} = {level}" for level in feature.categories[1:]] if feature.kind == "category" else [feature.name]


def _kind(asked: Feature | Target, column: Column) -> Kind:
    if isinstance(asked, Feature):
        return asked.kind
    if asked.kind == "segmentation":
        return "mask"
    if asked.kind == "binary" and not asked.categories:
        return column.kind
    return "category" if asked.categories else "number"


def _levels(asked: Feature | Target) -> Sequence[str]:
    return asked.categories or ("0", "1")


def _codes(asked: Feature | Target, column: Column) -> npt.NDArray[np.int64]:
    """Codes in the study's order of categories; -1 where missing."""
    place = {level: number for number, level in enumerate(_levels(asked))}
    order = [place.get(level, -1) for level in column.categories]
    # The last entry is where the table's own -1 leads.
    codes: npt.NDArray[np.int64] = np.array([*order, -1], np.int64)[column.values]
    return codes


def _block(feature: Feature, column: Column) -> Floats:
    if feature.kind == "number":
        return np.array(column.values, np.float64).reshape(-1, 1)
    codes = _codes(feature, column)
    levels: Floats = (codes[:, None] == np.arange(1, len(feature.categories))).astype(np.float64)
    levels[codes == -1] = np.nan
    return levels


def _groups(group: Feature, table: Table) -> Floats:
    """Raises BadData where the column is not there, is no category or has one that the study does not list."""
    column = find(table, group.name)
    check_kind(group, column)
    check_categories(group, column, table)
    one_hot: Floats = (_codes(group, column)[:, None] == np.arange(len(group.categories))).astype(np.float64)
    return one_hot


def _targets(target: Target, column: Column) -> npt.NDArray[Any]:
    if column.kind == "category":
        return _codes(target, column)
    if target.kind == "regression":
        return column.values.astype(np.float64)
    return np.where(column.missing, 0.0, column.values).astype(np.int64)


def _mixed(patient: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that makes any pseudonyms uniform."""
    mixed = patient.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
