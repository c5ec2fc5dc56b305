from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.core.errors import BadData, BadInput
from aimer2.study.partition import by_column, dirichlet, iid, quantity

SITES = ("a", "b", "c", "d")


def frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame({"row": np.arange(rows), "label": rng.choice(["x", "y", "z"], rows, p=[0.6, 0.3, 0.1])})


def pair(rows: int = 400) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.arange(rows * 2).reshape(rows, 2), np.arange(rows) % 3


METHODS = {
    "iid": lambda data, rng: iid(data, SITES, rng=rng),
    "dirichlet": lambda data, rng: dirichlet(data, SITES, alpha=0.3, rng=rng, label="label"),
    "quantity-alpha": lambda data, rng: quantity(data, SITES, rng=rng, alpha=0.7),
    "quantity-proportions": lambda data, rng: quantity(data, SITES, rng=rng, proportions=[1, 2, 3, 4]),
}


@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 2**32), st.integers(60, 200))
@settings(max_examples=20)
def test_every_row_is_at_exactly_one_site_and_whole(method: str, seed: int, rows: int) -> None:
    parts = METHODS[method](frame(rows), np.random.default_rng(seed))
    assert tuple(parts) == SITES
    together = pd.concat(parts.values()).sort_values("row").reset_index(drop=True)
    pd.testing.assert_frame_equal(together, frame(rows))
    assert all(part["row"].is_monotonic_increasing for part in parts.values())

    arrays = METHODS[method](pair(rows), np.random.default_rng(seed))
    features = np.concatenate([part[0] for part in arrays.values()])
    targets = np.concatenate([part[1] for part in arrays.values()])
    order = np.argsort(features[:, 0])
    np.testing.assert_array_equal(features[order], pair(rows)[0])
    np.testing.assert_array_equal(targets[order], pair(rows)[1])


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_alone_decides(method: str) -> None:
    first, again, other = (METHODS[method](frame(), np.random.default_rng(seed))["a"]["row"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_by_column_gives_each_value_its_own_site() -> None:
    parts = by_column(frame(), "label")
    assert list(parts) == ["x", "y", "z"]
    assert all(set(part["label"]) == {name} for name, part in parts.items())
    assert sum(map(len, parts.values())) == 400
    with pytest.raises(BadData, match="no column"):
        by_column(frame(), "hospital")
    with pytest.raises(BadData, match="belong to no site"):
        by_column(pd.DataFrame({"h": ["a", None]}), "h")


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(part) for part in iid(frame(402), SITES, rng=np.random.default_rng(0)).values()]
    assert max(sizes) - min(sizes) == 1


def skew(alpha: float, seed: int) -> float:
    """Mean distance (total variation) of a site's shares of the classes from those of all."""
    data = frame(2_000)
    of_all = data["label"].value_counts(normalize=True)
    parts = dirichlet(data, SITES, alpha=alpha, rng=np.random.default_rng(seed), label="label")
    return float(
        np.mean(
            [(part["label"].value_counts(normalize=True).reindex(of_all.index, fill_value=0) - of_all).abs().sum() / 2 for part in parts.values()]
        )
    )


def test_a_large_alpha_is_iid_and_a_small_one_is_not() -> None:
    parts = dirichlet(frame(2_000), SITES, alpha=1e12, rng=np.random.default_rng(1), label="label")
    sizes = [part["label"].value_counts().to_dict() for part in parts.values()]
    whole = frame(2_000)["label"].value_counts()
    assert all(abs(size[label] - whole[label] / 4) <= 1 for size in sizes for label in whole.index)
    mean = {alpha: np.mean([skew(alpha, seed) for seed in range(8)]) for alpha in (0.1, 1.0, 100.0)}
    assert mean[0.1] > 0.25 > mean[1.0] > 0.05 > mean[100.0]


def test_no_site_has_fewer_rows_than_asked() -> None:
    rng = np.random.default_rng(5)
    assert min(len(part) for part in dirichlet(frame(), SITES, alpha=0.1, rng=rng, label="label", minimum=20).values()) >= 20
    assert min(len(part) for part in quantity(frame(), SITES, alpha=0.3, rng=rng, minimum=20).values()) >= 20
    with pytest.raises(BadInput, match="tries"):
        dirichlet(frame(20), SITES, alpha=0.1, rng=rng, label="label", minimum=6)


def test_given_proportions_are_kept_to_the_row() -> None:
    parts = quantity(frame(400), SITES, rng=np.random.default_rng(0), proportions=[0.1, 0.2, 0.3, 0.4])
    assert [len(part) for part in parts.values()] == [40, 80, 120, 160]


@pytest.mark.parametrize(
    "arguments", [{}, {"alpha": 1.0, "proportions": [1, 1, 1, 1]}, {"proportions": [1, 1]}, {"proportions": [1, 1, 1, 0]}, {"alpha": 0.0}]
)
def test_wrong_arguments_of_quantity_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        quantity(frame(), SITES, rng=np.random.default_rng(0), **arguments)


def test_other_wrong_arguments_are_refused() -> None:
    rng = np.random.default_rng(0)
    for sites in ((), ("a", "a")):
        with pytest.raises(BadInput):
            iid(frame(), sites, rng=rng)
    with pytest.raises(BadData, match="label"):
        dirichlet(frame(), SITES, alpha=1, rng=rng)
    with pytest.raises(BadInput, match="fewer than 5"):
        quantity(frame(10), SITES, rng=rng, proportions=[1, 1, 1, 97], minimum=5)


def test_targets_of_several_parts_have_no_classes_to_divide_by() -> None:
    data = (np.zeros((20, 1)), np.zeros((20, 2)))
    with pytest.raises(BadInput, match="several parts"):
        dirichlet(data, ["a", "b"], alpha=1.0, rng=np.random.default_rng(0))
    assert sum(len(targets) for _, targets in iid(data, ["a", "b"], rng=np.random.default_rng(0)).values()) == 20
