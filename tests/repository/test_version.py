"""A version in a folder: opened with the coordinator's key or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.core.errors import AimerError, BadInput, NotAuthenticated, NotFound, Tampered
from aimer2.identity.keys import SigningKey
from aimer2.messages.record import StudyRecord
from aimer2.repository.version import KEY, open_version, read_version
from aimer2.study.weights import RECORD

Make = Callable[..., Any]


def test_a_folder_is_read_as_it_was_written(make: Make) -> None:
    made = make()
    read = read_version(made.weights.parent)
    assert (read.record, read.result, read.key) == (made.record, made.simulation.result, made.version.key)
    for name, leaf in read.tree().items():
        assert np.array_equal(np.asarray(leaf), made.simulation.model[name])


def test_the_moments_are_those_of_all_sites_and_counts_are_as_they_may_be_told(make: Make) -> None:
    made = make(evaluation={"held_out": 0.0})
    moments = made.version.moments()
    assert made.version.result["preprocessing"]["inputs"] == ["age", "sex = m", "chol"]
    assert moments.count[0] == 240 and moments.count[2] % 5 == 0, "to the nearest five"
    assert 55 < moments.mean[0] < 65 and 8 < moments.deviation[0] < 12


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / RECORD).unlink(), NotFound),
        (lambda folder: (folder / RECORD).write_text("{}"), BadInput),
        (lambda folder: (folder / KEY).write_text(SigningKey.generate().public.text), NotAuthenticated),
        (lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text().replace('"result": "ey', '"result": "eY')), AimerError),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(make: Make, damage: Callable[[Path], object], error: type[Exception]) -> None:
    folder = make().weights.parent
    damage(folder)
    with pytest.raises(error):
        read_version(folder)


def test_the_result_of_another_study_is_refused(make: Make) -> None:
    first, second = make("first"), make("second", seed=2)
    mixed = StudyRecord.model_validate(first.record.model_dump() | {"result": second.record.result})
    with pytest.raises(Tampered, match="another study"):
        open_version(mixed, first.version.key)


def test_weights_that_are_not_the_signed_ones_are_not_used(make: Make) -> None:
    made = make()
    data = bytearray(made.weights.read_bytes())
    data[-1] ^= 1
    made.weights.write_bytes(data)
    with pytest.raises(Tampered):
        made.version.tree()
    made.weights.unlink()
    with pytest.raises(NotFound, match="not at hand"):
        made.version.tree()
