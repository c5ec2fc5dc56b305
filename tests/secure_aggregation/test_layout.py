"""The canonical order and what every leaf travels as."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from aimer2.core.errors import BadInput, BadUpdate
from aimer2.secure_aggregation.layout import BLOCK, Layout, Leaf

TREES: dict[str, dict[str, Any]] = {
    "weight": {"n": np.zeros((), np.int64)},
    "difference": {"b": np.zeros(3, np.float32), "a": np.zeros((2, BLOCK), np.float32), "c": np.zeros(5), "d": np.zeros((0, 2))},
}
RANGES = {"difference": {"a": 2.0, "c": 1.5, "b": 0.0}}


def test_what_every_leaf_travels_as() -> None:
    layout = Layout.of(TREES, RANGES, 4)
    assert [(leaf.sum, leaf.name, leaf.bits, leaf.word.name, leaf.masked_shape) for leaf in layout.leaves] == [
        ("difference", "a", 32, "uint32", (2, BLOCK)),
        ("difference", "b", 128, "uint64", (3, 2)),
        ("difference", "c", 64, "uint64", (5,)),
        ("difference", "d", 128, "uint64", (0, 2)),
        ("weight", "n", 64, "uint64", ()),
    ]
    assert [(leaf.name, leaf.shape, leaf.masked_shape) for leaf in layout.own] == [
        ("checksum", (1,), (1, 2)),
        # of a, b (its range is wanted for the next round) and c
        ("largest", (3,), (3, 2)),
        ("saturated", (1,), (1,)),
    ]


@pytest.mark.parametrize(("size", "dtype", "bits"), [(1024, "float32", 128), (1025, "float32", 64), (1025, "float64", 128)])
def test_many_float32_of_unknown_size_take_half_the_bits(size: int, dtype: str, bits: int) -> None:
    leaf = Leaf("s", "x", (size,), dtype)
    assert (leaf.bits, leaf.masked_shape) == (bits, (size,) if bits == 64 else (size, 2))
    assert leaf.measured == (dtype == "float32")


def test_every_leaf_begins_at_a_cipher_block_of_its_own() -> None:
    places = Layout.of(TREES, RANGES, 4).places
    ends = 0
    for place in places:
        assert place.offset % 16 == 0
        assert 0 <= place.offset - ends < 16
        ends = place.offset + place.leaf.size * place.leaf.bits // 8
    assert [place.block for place in places] == [0, 2, 3, 4, 4, 5, 6, 7]


def test_a_layout_comes_back_from_its_document_with_its_digest() -> None:
    layout = Layout.of(TREES, RANGES, 4)
    found = Layout.of_document(json.loads(json.dumps(layout.document())))
    assert found == layout
    assert found.digest() == layout.digest()


def test_a_known_digest() -> None:
    # deterministic CBOR (RFC 8949 §4.2 with the shorter keys first) of {"sites": 3, "words": 2, "leaves": [["s", "x", [2], "float64", 1.5]]}, by hand
    assert Layout((Leaf("s", "x", (2,), "float64", 1.5),), 3).digest() == (
        hashlib.sha256(bytes.fromhex("a36573697465730365776f72647302666c6561766573818561736178810267666c6f61743634f93e00")).hexdigest()
    )


def test_whatever_differs_changes_the_digest() -> None:
    layouts = [
        Layout.of(TREES, RANGES, 4),
        Layout.of(TREES, RANGES, 5),
        Layout.of(TREES, {"difference": {"a": 2.0, "c": 1.25}}, 4),
        Layout.of(TREES, {}, 4),
        Layout.of(TREES | {"weight": {"m": np.zeros((), np.int64)}}, RANGES, 4),
        Layout.of(TREES | {"weight": {"n": np.zeros(1, np.int64)}}, RANGES, 4),
        Layout.of(TREES | {"weight": {"n": np.zeros(())}}, RANGES, 4),
        Layout.of(TREES | {"scale": {"n": np.zeros((), np.int64)}}, RANGES, 4),
    ]
    assert len({layout.digest() for layout in layouts}) == len(layouts)


def test_the_order_of_names_does_not_matter() -> None:
    turned = {name: dict(reversed(leaves.items())) for name, leaves in reversed(TREES.items())}
    assert Layout.of(turned, RANGES, 4) == Layout.of(TREES, RANGES, 4)


@pytest.mark.parametrize(
    ("trees", "ranges", "sites"),
    [
        ({"secure": {"x": np.zeros(2)}}, {}, 3),
        ({"s": {"x": np.zeros(2, np.float16)}}, {}, 3),
        ({"s": {"x": np.zeros(2, np.uint64)}}, {}, 3),
        ({"s": {"x": np.zeros(2)}}, {}, 0),
        ({"s": {"x": np.zeros(2)}}, {"s": {"x": -1.0}}, 3),
        ({"s": {"x": np.zeros(2)}}, {"s": {"x": float("nan")}}, 3),
        ({"s": {"x": np.zeros(2)}}, {"s": {"x": float("inf")}}, 3),
        ({"s": {"x": np.zeros(2)}}, {"s": {"x": 1e-300}}, 3),
        ({"s": {"x": np.zeros(2, np.int64)}}, {"s": {"x": 4.0}}, 3),
    ],
)
def test_what_cannot_be_laid_out(trees: Any, ranges: Any, sites: int) -> None:
    with pytest.raises(BadUpdate):
        Layout.of(trees, ranges, sites)


GOOD: dict[str, Any] = {"sites": 3, "leaves": [["s", "x", [2], "float64", None]]}
LIES: list[Any] = [
    None,
    [],
    {},
    GOOD | {"more": 1},
    GOOD | {"sites": True},
    GOOD | {"sites": "3"},
    GOOD | {"sites": 0},
    GOOD | {"leaves": None},
    GOOD | {"leaves": [None]},
    GOOD | {"leaves": [["s", "x", [2], "float64"]]},
    GOOD | {"leaves": [["s", 1, [2], "float64", None]]},
    GOOD | {"leaves": [["s", "x", [-2], "float64", None]]},
    GOOD | {"leaves": [["s", "x", [True], "float64", None]]},
    GOOD | {"leaves": [["s", "x", 2, "float64", None]]},
    GOOD | {"leaves": [["s", "x", [2], "object", None]]},
    GOOD | {"leaves": [["s", "x", [2], "int128", None]]},
    GOOD | {"leaves": [["s", "x", [2], "float64", "1"]]},
    GOOD | {"leaves": [["s", "x", [2], "float64", 10**400]]},
    GOOD | {"leaves": [["secure", "x", [2], "float64", None]]},
    GOOD | {"leaves": GOOD["leaves"] * 2},
    GOOD | {"leaves": [["t", "x", [2], "float64", None], *GOOD["leaves"]]},
]


@pytest.mark.parametrize("lie", LIES)
def test_documents_that_are_no_layout(lie: Any) -> None:
    assert Layout.of_document(GOOD).leaves[0].size == 2
    with pytest.raises(BadInput):
        Layout.of_document(lie)
