"""Rows ready for a learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadData
from aimer2.core.said import say


class Dataset(Protocol):
    """What a learner trains on: anything with a length, its targets, and rows by index."""

    def __len__(self) -> int: ...
    @property
    def targets(self) -> Part: ...
    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row's features: ``(d,)`` for a table, ``(channels, height, width)`` for images."""
        ...

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Features ``(k, *feature_shape)`` and targets ``(k,)``, or ``(k, …)`` where a row's target has several parts, of the given rows."""
        ...


class Stored(Protocol):
    """Rows that lie in a file, such as images: read and prepared when they are asked for, never all at once."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The given rows, by number or by truth values, prepared."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of them."""
        ...

    def at(self, rows: npt.NDArray[Any]) -> Stored:
        """Those rows alone; none is read."""
        ...


Part: TypeAlias = npt.NDArray[Any] | Stored


def part_at(part: Part, rows: npt.NDArray[Any]) -> Any:
    """These rows of features or targets; what lies in a file stays there."""
    return part[rows] if isinstance(part, np.ndarray) else part.at(rows)


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """A data set: features and targets ``(n, …)`` in memory or in a file, and whose row each is; without ``patients`` each row is a patient.

    ``groups`` ``(n, groups)``: 1 where a row belongs to a group, else 0; in a row whose group is not known all are 0.
    """

    features: Part
    targets: Part
    patients: npt.NDArray[np.uint64] | None = None
    groups: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if len(self.features) != len(self.targets):
            raise BadData(say("{count} rows of features, but {targets} targets.", count=len(self.features), targets=len(self.targets)))
        if self.patients is not None and len(self.patients) != len(self.targets):
            raise BadData(say("{count} patients' pseudonyms, but {rows} rows.", count=len(self.patients), rows=len(self.targets)))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return tuple(self.features.shape[1:])

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return self.features[rows], self.targets[rows]

    def at(self, rows: npt.NDArray[Any]) -> Samples:
        """These rows, by number or by truth values; of what lies in a file none is read."""
        patients, groups = (None if part is None else part[rows] for part in (self.patients, self.groups))
        return Samples(part_at(self.features, rows), part_at(self.targets, rows), patients, groups)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.features, np.ndarray) and isinstance(self.targets, np.ndarray)


def rows_of(data: Dataset, rows: npt.NDArray[np.int64]) -> Samples:
    """These rows as a data set of their own."""
    return data.at(rows) if isinstance(data, Samples) else Samples(*data.batch(rows))


@final
@dataclass(frozen=True, slots=True)
class Shielded:
    """Rows under differential privacy: to a method they have the public size that the study states, and none can be read.

    A private learner alone looks inside. So no sum of a method is made of the rows or of their number.
    """

    inside: Samples
    size: int

    def __len__(self) -> int:
        return self.size

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.inside.feature_shape

    @property
    def targets(self) -> npt.NDArray[Any]:
        raise BadData("Under differential privacy a method reads no row.")

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        raise BadData("Under differential privacy a method reads no row.")


@final
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Frame:
    """Named columns, what a statistical method reads. Each float64 ``(n,)``: numbers, or codes of the study's categories; NaN where missing.

    It has no features and no targets: which column is which is the question's affair.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    patients: npt.NDArray[np.uint64]

    def __post_init__(self) -> None:
        if odd := sorted(name for name, values in self.columns.items() if values.shape != self.patients.shape or values.dtype != np.float64):
            raise BadData(say("These columns are not {count} numbers: {odd}.", count=len(self.patients), odd=", ".join(odd)))

    @classmethod
    def of(cls, data: Dataset) -> Frame:
        """The data of a site as a frame. Raises BadData where they are none."""
        if not isinstance(data, Frame):
            raise BadData("A statistical method reads named columns, and these are rows for a model.")
        return data

    @classmethod
    def empty(cls, names: Sequence[str]) -> Frame:
        """Nobody's data: what a method makes of them has the names and shapes of every site's sums."""
        return cls({name: np.zeros(0) for name in names}, np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.patients)

    def at(self, rows: npt.NDArray[Any]) -> Frame:
        return Frame({name: values[rows] for name, values in self.columns.items()}, self.patients[rows])

    def complete(self, names: Sequence[str]) -> Frame:
        """The rows in which none of these columns is missing."""
        there = np.ones(len(self), bool)
        for name in names:
            there &= ~np.isnan(self.columns[name])
        return self if there.all() else self.at(there)

    def counted(self, rows: npt.NDArray[Any] | None = None) -> int:
        """How many different patients these rows (none given: all) belong to."""
        return len(np.unique(self.patients if rows is None else self.patients[rows]))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @property
    def targets(self) -> npt.NDArray[Any]:
        raise BadData("Named columns have no targets.")

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        raise BadData("Named columns have no features and targets.")
