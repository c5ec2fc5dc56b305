"""What every compression promises: one suite over the catalogue; and what each promises on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.blobs.memory import MemoryStore
from aimer2.compression import catalogue
from aimer2.compression.compressor import BLOCK, form_of
from aimer2.compression.half_precision import HalfPrecision
from aimer2.compression.packing import Packing, added
from aimer2.compression.random_k import RandomK
from aimer2.compression.scales import SCALE
from aimer2.compression.stochastic_quantisation import StochasticQuantisation
from aimer2.compression.top_k import TopK
from aimer2.core import tree
from aimer2.core.errors import BadStudy, BadUpdate
from aimer2.core.tree import read
from aimer2.messages.tensors import read_tree, write_tree

Array = np.ndarray[Any, Any]
VARIANTS = {
    "random_k": (RandomK(), RandomK(fraction=0.3)),
    "top_k": (TopK(), TopK(fraction=0.3)),
    "stochastic_quantisation": (StochasticQuantisation(), StochasticQuantisation(bits=4)),
    "half_precision": (HalfPrecision(),),
}
ALL = [one for variants in VARIANTS.values() for one in variants]
SIZES = (1, 2, 3, SCALE - 1, SCALE + 1, 7919, BLOCK, BLOCK + 1, 2 * BLOCK + 12_345)


@dataclass(frozen=True)
class Slow:
    """An array that is read in slices, as one in a file."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def read(self, start: int, stop: int) -> Array:
        return self.array.reshape(-1)[start:stop].copy()


def drawn(size: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(2, size) * 10.0 ** rng.integers(-3, 4)).astype(dtype).reshape(1, -1)


def round_trip(compressor: Any, leaf: Array, *, round_number: int = 1, site: str = "a") -> Array:
    sent = Packing(compressor, 7, round_number, site).pack({"w": leaf})
    return np.asarray(tree.load(Packing(compressor, 7, round_number).restore(sent, {"w": leaf})["w"]))


def test_the_catalogue_has_every_compression_and_the_variants_are_of_them() -> None:
    assert set(catalogue.names()) == set(VARIANTS)
    for name in catalogue.names():
        assert catalogue.make(name, {}) == catalogue.example(name) == VARIANTS[name][0]
        assert len(catalogue.summary(name)) > 20


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_what_travels_has_the_stated_forms_whatever_the_numbers(compressor: Any, dtype: Any, size: int) -> None:
    leaf = drawn(size, dtype)
    packing = Packing(compressor, 7, 1, "a")
    for numbers in (leaf, np.zeros_like(leaf)):
        assert {name: form_of(part) for name, part in packing.pack({"w": numbers}).items()} == packing.forms({"w": leaf})
    found = round_trip(compressor, leaf)
    assert (found.shape, found.dtype) == (leaf.shape, leaf.dtype)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(round_trip(compressor, np.zeros_like(leaf)), 0)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_it_travels_and_is_computed_slice_by_slice_with_the_same_bits(compressor: Any) -> None:
    leaf = drawn(2 * BLOCK + 12_345)
    packing, blobs = Packing(compressor, 7, 1, "a"), MemoryStore()

    def sent(array: Any) -> Any:
        writer = blobs.create()
        write_tree(packing.pack({"w": array}), writer)
        return writer.commit()

    ref = sent(leaf)
    assert sent(Slow(leaf)) == ref
    here = read_tree(blobs.open(ref))
    whole = Packing(compressor, 7, 1).restore(here, {"w": leaf})["w"]
    lazy = Packing(compressor, 7, 1).restore({name: Slow(np.asarray(part)) for name, part in here.items()}, {"w": leaf})["w"]
    assert isinstance(whole, np.ndarray) and not isinstance(lazy, np.ndarray)
    np.testing.assert_array_equal(tree.load(lazy), whole)
    for start, stop in ((0, 0), (5, 17), (BLOCK - 3, 2 * BLOCK + 9), (leaf.size - 1, leaf.size)):
        np.testing.assert_array_equal(read(lazy, start, stop), whole.reshape(-1)[start:stop])


@pytest.mark.parametrize("compressor", [one for one in ALL if one.linear], ids=repr)
@given(seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), size=st.integers(1, 3000), number=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_a_linear_one_adds_up(compressor: Any, seeds: tuple[int, int], size: int, number: int) -> None:
    one, other = drawn(size, np.float64, seeds[0]), drawn(size, np.float64, seeds[1])
    parts = [Packing(compressor, 7, number, site).pack({"w": leaf}) for site, leaf in (("a", one), ("b", other))]
    added_up = Packing(compressor, 7, number).restore(tree.add(*parts), {"w": one})["w"]
    np.testing.assert_allclose(tree.load(added_up), round_trip(compressor, one + other, round_number=number), rtol=1e-12, atol=1e-9)


UNBIASED = [RandomK(fraction=0.25), StochasticQuantisation(), StochasticQuantisation(bits=4)]


@pytest.mark.parametrize("compressor", UNBIASED, ids=repr)
def test_an_unbiased_one_has_the_update_as_its_mean_and_the_stated_spread(compressor: Any) -> None:
    leaf = np.random.default_rng(3).normal(size=(6, 5))
    rounds = 4000
    found = np.stack([round_trip(compressor, leaf, round_number=number) for number in range(rounds)])
    # of random-k (d/k − 1)·x² exactly; of rounding at most a quarter of a step squared
    spread = np.abs(leaf) * np.sqrt(30 / 8 - 1) if isinstance(compressor, RandomK) else np.abs(leaf).max() / compressor.steps / 2
    assert (np.abs(found.mean(axis=0) - leaf) < 5.5 * spread / np.sqrt(rounds) + 1e-7).all()
    assert (found.std(axis=0) < 1.1 * spread + 1e-7).all()
    if isinstance(compressor, RandomK):
        assert (found.std(axis=0) > 0.9 * spread).all()


def test_random_k_sends_what_all_sites_have_in_common_and_draws_anew_each_round() -> None:
    def places(site: str, number: int, leaf: str = "w", seed: int = 7) -> tuple[int, ...]:
        count = np.arange(1.0, 201.0).reshape(4, 50)
        sent = Packing(RandomK(fraction=0.1), seed, number, site).pack({leaf: count})
        assert len(sent[leaf]) == 20
        return tuple(np.round(tree.load(sent[leaf]) / 10).astype(int))

    assert places("a", 1) == places("b", 1)
    assert len({places("a", 1), places("a", 2), places("a", 1, "v"), places("a", 1, seed=8)}) == 4


@pytest.mark.parametrize("compressor", [RandomK(fraction=1.0), TopK(fraction=1.0)], ids=repr)
def test_a_fraction_of_one_is_the_update_bit_for_bit(compressor: Any) -> None:
    leaf = drawn(BLOCK + 77)
    assert round_trip(compressor, leaf).tobytes() == leaf.tobytes()


def test_top_k_sends_the_largest_and_keeps_the_rest() -> None:
    leaf, packing = drawn(BLOCK + 5000), Packing(TopK(fraction=0.1), 7, 1, "a")
    sent = packing.pack({"w": leaf})
    left = tree.load(packing.left_out({"w": leaf}, sent)["w"])
    found = tree.load(packing.restore(sent, {"w": leaf})["w"])
    np.testing.assert_array_equal(found + left, leaf)
    assert ((found == 0) | (left == 0)).all()
    for block in (slice(0, BLOCK), slice(BLOCK, None)):
        kept, rest = np.abs(found.reshape(-1)[block]), np.abs(left.reshape(-1)[block])
        assert np.count_nonzero(kept) == np.ceil(len(kept) / 10)
        assert kept[kept > 0].min() >= rest.max()


def test_with_what_was_left_out_nothing_is_lost_over_the_rounds() -> None:
    rng, residual = np.random.default_rng(5), {}
    arrived, meant = np.zeros((8, 40)), np.zeros((8, 40))
    for number in range(1, 60):
        packing = Packing(TopK(fraction=0.05), 7, number, "a")
        change = rng.normal(size=(8, 40))
        leaves = added({"w": change, "bias": change[0]}, residual)
        np.testing.assert_array_equal(leaves["bias"], change[0])
        sent = packing.pack(leaves)
        residual = packing.left_out(leaves, sent)
        arrived, meant = arrived + packing.restore(sent, leaves)["w"], meant + change
        np.testing.assert_allclose(arrived + residual["w"], meant, atol=1e-12)
    assert np.linalg.norm(residual["w"]) < np.linalg.norm(meant) * 3
    with pytest.raises(BadUpdate):
        added({"w": np.zeros((3, 3))}, residual)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_rounded_number_is_within_a_step_of_its_bucket_and_a_bucket_is_no_others_business(bits: int) -> None:
    leaf = drawn(5 * SCALE)
    leaf.reshape(-1)[:SCALE] *= 1e6
    found = round_trip(StochasticQuantisation(bits=bits), leaf).reshape(-1, SCALE)
    steps = np.abs(leaf).reshape(-1, SCALE).max(axis=1, keepdims=True) / (127 if bits == 8 else 7)
    assert (np.abs(found - leaf.reshape(-1, SCALE)) <= steps * (1 + 1e-6)).all()


def test_two_sites_do_not_round_alike() -> None:
    leaf = drawn(3000)
    assert (round_trip(StochasticQuantisation(bits=4), leaf) != round_trip(StochasticQuantisation(bits=4), leaf, site="b")).any()


def test_half_precision_holds_three_digits_and_never_overflows() -> None:
    leaf = drawn(5 * SCALE, np.float64) * 1e12
    found = round_trip(HalfPrecision(), leaf)
    largest = np.repeat(np.abs(leaf).reshape(-1, SCALE).max(axis=1), SCALE).reshape(1, -1)
    assert (np.abs(found - leaf) <= np.maximum(np.abs(leaf) * 2.0**-10.9, largest * 2.0**-25)).all()


@pytest.mark.parametrize(
    ("compressor", "at_most"),
    [(RandomK(fraction=0.1), 0.4), (TopK(fraction=0.05), 0.3), (StochasticQuantisation(), 1.005), (StochasticQuantisation(bits=4), 0.505)],
    ids=repr,
)
def test_bytes_per_number(compressor: Any, at_most: float) -> None:
    leaf = drawn(10 * BLOCK)
    sent = Packing(compressor, 7, 1, "a").pack({"w": leaf})
    assert sum(tree.size(part) * part.dtype.itemsize for part in sent.values()) / leaf.size <= at_most + 1e-3


def test_vectors_and_whole_numbers_travel_as_they_are() -> None:
    leaves = {"w": drawn(50), "running_var": drawn(50)[0], "scale": np.ones(()), "steps": np.ones((5, 5), np.int64)}
    sent = Packing(TopK(), 7, 1, "a").pack(leaves)
    assert all(sent[name] is leaves[name] for name in ("running_var", "scale", "steps"))
    assert sent.keys() == {"places:w", "values:w", "running_var", "scale", "steps"}


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_what_has_not_the_forms_is_refused(compressor: Any) -> None:
    leaf = drawn(3000)
    good = Packing(compressor, 7, 1, "a").pack({"w": leaf})
    name = sorted(good)[0]
    for bad in ({}, {"w2": leaf}, {**good, "more": leaf}, {**good, name: good[name][:-1]}, {**good, name: good[name].astype(np.int64)}):
        with pytest.raises(BadUpdate, match="study's compression"):
            Packing(compressor, 7, 1).restore(bad, {"w": leaf})


@pytest.mark.parametrize("places", [[0, 0], [5, 3], [2, 60]])
def test_places_that_make_no_sense_show_as_numbers_that_are_not_finite(places: list[int]) -> None:
    leaf = drawn(40)
    bad = {"places:w": np.array(places, np.uint16), "values:w": np.ones(2, np.float32)}
    assert not np.isfinite(tree.load(Packing(TopK(), 7, 1).restore(bad, {"w": leaf})["w"])).any()


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_a_number_that_is_not_finite_never_becomes_one_that_is(compressor: Any) -> None:
    leaf = drawn(3000)
    leaf[0, :] = np.nan
    with np.errstate(all="ignore"):
        assert not all(np.isfinite(tree.load(part)).all() for part in Packing(compressor, 7, 1, "a").pack({"w": leaf}).values())


@pytest.mark.parametrize(
    ("name", "parameters", "place"),
    [
        ("zip", {}, "method.compression.name"),
        ("random_k", {"fraction": 0.0}, "method.compression.parameters.fraction"),
        ("random_k", {"fraction": 1.5}, "method.compression.parameters.fraction"),
        ("top_k", {"share": 0.1}, "method.compression.parameters.share"),
        ("top_k", {"fraction": "a tenth"}, "method.compression.parameters.fraction"),
        ("stochastic_quantisation", {"bits": 6}, "method.compression.parameters.bits"),
        ("half_precision", {"bits": 16}, "method.compression.parameters.bits"),
    ],
)
def test_what_there_is_not_is_refused_with_its_place(name: str, parameters: dict[str, Any], place: str) -> None:
    with pytest.raises(BadStudy) as error:
        catalogue.make(name, parameters)
    assert [fault.place for fault in error.value.faults] == [place]
