"""Masked sums: exact for whoever is left, random to whoever looks on, and no mistake that passes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from math import erfc, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core import tree
from aimer2.core.errors import BadUpdate, Conflict
from aimer2.core.tree import Tree
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.secure_aggregation.layout import BLOCK, SECURE, Layout
from aimer2.secure_aggregation.masking import Unmasked, mask, unmask

CONTEXT = sha256(b"round 1").digest()


def pair(one: int, other: int) -> bytes:
    return sha256(f"{min(one, other)}-{max(one, other)}".encode()).digest()


def own(site: int) -> bytes:
    return sha256(f"own {site}".encode()).digest()


def sent(sums: Mapping[str, Tree], *, backwards: bool = False) -> dict[str, Tree]:
    """Written as blobs and read again, "secure" last."""
    found: dict[str, Tree] = {}
    names = [name for name in sums if name != SECURE]
    for name in [*(names[::-1] if backwards else names), SECURE]:
        store = MemoryStore()
        writer = store.create()
        write_tree(sums[name], writer)
        found[name] = read_tree(store.open(writer.commit()))
    return found


@dataclass(frozen=True)
class Federation:
    """Sites 1 to n, each with its sums."""

    sums: Sequence[Mapping[str, Tree]]
    layout: Layout

    @property
    def sites(self) -> range:
        return range(1, len(self.sums) + 1)

    def masked(self, site: int, context: bytes = CONTEXT) -> dict[str, Tree]:
        plus = [pair(site, other) for other in self.sites if other > site]
        minus = [pair(site, other) for other in self.sites if other < site]
        return mask(self.sums[site - 1], self.layout, context, own(site), plus, minus)

    def upload(self, site: int, context: bytes = CONTEXT) -> dict[str, Tree]:
        return sent(self.masked(site, context), backwards=site % 2 == 0)

    def open(self, uploads: Mapping[int, Mapping[str, Tree]], context: bytes = CONTEXT) -> Unmasked:
        left = [(site, other) for site in uploads for other in self.sites if other not in uploads]
        plus = [pair(site, other) for site, other in left if other > site]
        minus = [pair(site, other) for site, other in left if other < site]
        return unmask(list(uploads.values()), self.layout, context, [own(site) for site in uploads], plus, minus)


def federation(count: int, seed: int = 1, ranges: Mapping[str, Mapping[str, float]] | None = None) -> Federation:
    """Whole numbers in every kind of leaf; ranged ones with a step of 1, so that all is exact."""
    random = np.random.default_rng(seed)
    sums = [
        {
            "difference": {
                "narrow": random.integers(-(2**20), 2**20, (3, BLOCK // 2 + 1)).astype(np.float32),
                "wide": random.integers(-(2**40), 2**40, (2, 7)).astype(np.float64),
                "open": random.integers(-(2**49), 2**49, 2**10 + 1) * 2.0**-30,
            },
            "weight": {"n": np.array(random.integers(1, 10**6)), "none": np.zeros((0, 2))},
        }
        for _ in range(count)
    ]
    steps = {"narrow": float((2**31 - 1) // count), "wide": whole((2**63 - 1) // count)}
    return Federation(sums, Layout.of(sums[0], {"difference": steps} if ranges is None else ranges, count))


def whole(limit: int) -> float:
    spare = limit.bit_length() - 53
    return float(limit >> spare << spare)


def plain(sums: Sequence[Mapping[str, Tree]]) -> dict[str, dict[str, Any]]:
    return {
        name: {leaf: np.sum([np.asarray(each[name][leaf]) for each in sums], axis=0, dtype=array.dtype) for leaf, array in leaves.items()}
        for name, leaves in sums[0].items()
    }


def same(one: Mapping[str, Tree], other: Mapping[str, Tree]) -> bool:
    return {(s, n): (a.shape, a.dtype, np.asarray(a).tobytes()) for s, t in one.items() for n, a in t.items()} == {
        (s, n): (a.shape, a.dtype, np.asarray(a).tobytes()) for s, t in other.items() for n, a in t.items()
    }


@pytest.mark.parametrize("count", range(3, 13))
def test_the_sum_of_whoever_is_left_is_exact(count: int) -> None:
    """Every set of up to seven sites, drawn ones of more."""
    sites = federation(count)
    uploads = {site: sites.upload(site) for site in sites.sites}
    sets = [chosen for size in range(2 * count // 3 + 1, count + 1) for chosen in combinations(sites.sites, size)]
    for left in sets if count <= 7 else [sets[number] for number in np.random.default_rng(count).permutation(len(sets))[:6]]:
        found = sites.open({site: uploads[site] for site in left})
        assert same(found.sums, plain([sites.sums[site - 1] for site in left]))
        assert found.saturated == 0
        expected = sum(float(np.abs(sites.sums[site - 1]["difference"]["narrow"]).max()) for site in left)
        assert found.largest["difference"]["narrow"] == expected


def test_a_mask_is_the_cipher_s_key_stream_in_canonical_order() -> None:
    sums: dict[str, Tree] = {"b": {"y": np.array([5, 6])}, "a": {"z": np.zeros((), np.float32), "x": np.array([1.0, -1.0, 0.5], np.float32)}}
    layout = Layout.of(sums, {"a": {"x": 1.0, "z": 1.0}}, 3)
    found = sent(mask(sums, layout, CONTEXT, bytes(32), [], []))

    def stream(seed: bytes) -> bytes:
        return Cipher(AES256(seed), CTR(bytes(16))).encryptor().update(bytes(64))

    limit = (2**31 - 1) // 3
    first, second = (np.frombuffer(stream(bytes(32))[at : at + 12], "<u4") for at in (0, 16))
    assert np.array_equal(found["a"]["x"], first + np.array([limit, 2**32 - limit, limit // 2], np.uint32))
    assert found["a"]["z"] == second[0]
    assert np.array_equal(found["b"]["y"], np.frombuffer(stream(bytes(32))[32:48], "<u8") + np.array([5, 6], np.uint64))
    # AES-256 of the zero block under the zero key, as every implementation's tables have it
    assert stream(bytes(32))[:16].hex() == "dc95c078a2408989ad48a21492842087"


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_part_of_a_masked_leaf_is_that_part_of_the_whole(data: st.DataObject) -> None:
    sites = federation(3)
    in_order = sites.upload(2)
    masked = sites.masked(2)
    for name in data.draw(st.lists(st.sampled_from(["narrow", "wide", "open"]), max_size=12)):
        leaf = masked["difference"][name]
        start = data.draw(st.integers(0, tree.size(leaf)))
        stop = data.draw(st.integers(start, tree.size(leaf)))
        assert np.array_equal(tree.read(leaf, start, stop), tree.read(in_order["difference"][name], start, stop))
    # what was read out of order or twice is counted once
    assert sent(masked).keys() == in_order.keys()
    again = sent(masked)
    assert all(np.array_equal(again[SECURE][name], in_order[SECURE][name]) for name in in_order[SECURE])


def test_the_counts_are_not_told_before_all_was_read() -> None:
    sites = federation(3)
    masked = sites.masked(1)
    tree.load(masked["difference"]["wide"])
    with pytest.raises(AssertionError, match="before all others"):
        tree.load(masked[SECURE]["saturated"])


def test_clipped_values_are_counted_and_the_largest_told() -> None:
    sums = [{"difference": {"w": np.array([3.0, -0.5, 0.25 * site], np.float32), "v": np.array([2.0 * site], np.float32)}} for site in (1, 2, 3)]
    sites = Federation(sums, Layout.of(sums[0], {"difference": {"w": 1.0}}, 3))
    found = sites.open({site: sites.upload(site) for site in sites.sites})
    assert found.saturated == 3
    # v has no range yet, and this is how it gets one
    assert found.largest == {"difference": {"w": 9.0, "v": 12.0}}
    assert found.sums["difference"]["w"] == pytest.approx([3.0, -1.5, 1.5], rel=1e-6)
    assert found.sums["difference"]["v"] == 12.0


def flip(upload: Mapping[str, Tree], name: str, leaf: str, at: int, bit: int) -> dict[str, Tree]:
    changed = np.array(upload[name][leaf])
    words = changed.reshape(-1)
    words[at] ^= words.dtype.type(1) << words.dtype.type(bit)
    return {**upload, name: {**upload[name], leaf: changed}}


@pytest.mark.parametrize(
    ("name", "leaf", "at", "bit"),
    [
        ("difference", "narrow", 0, 0),
        ("difference", "narrow", 3 * (BLOCK // 2 + 1) - 1, 31),
        ("difference", "wide", 5, 63),
        ("difference", "open", 2**11 + 1, 63),
        ("difference", "open", 6, 0),
        ("weight", "n", 0, 32),
        (SECURE, "saturated", 0, 0),
        (SECURE, "largest", 1, 5),
        (SECURE, "checksum", 0, 0),
    ],
)
def test_one_flipped_bit_is_found(name: str, leaf: str, at: int, bit: int) -> None:
    sites = federation(3)
    uploads = {site: sites.upload(site) for site in sites.sites}
    with pytest.raises(BadUpdate, match="do not cancel"):
        sites.open(uploads | {2: flip(uploads[2], name, leaf, at, bit)})


def test_wrong_masks_and_wrong_contexts_are_found() -> None:
    sites = federation(3)
    uploads = {site: sites.upload(site) for site in sites.sites}
    wrong = sent(mask(sites.sums[1], sites.layout, CONTEXT, own(2), [pair(2, 4)], [pair(1, 2)]))
    turned = sent(mask(sites.sums[1], sites.layout, CONTEXT, own(2), [pair(1, 2)], [pair(2, 3)]))
    other_round = sites.upload(2, sha256(b"round 2").digest())
    for upload in (wrong, turned, other_round, uploads[1]):
        with pytest.raises(BadUpdate, match="do not cancel"):
            sites.open(uploads | {2: upload})
    with pytest.raises(BadUpdate, match="do not cancel"):
        sites.open(uploads, sha256(b"round 2").digest())
    # a site that is missing and whose masks were not taken out
    with pytest.raises(BadUpdate, match="do not cancel"):
        unmask([uploads[1], uploads[2]], sites.layout, CONTEXT, [own(1), own(2)], [], [])
    assert same(sites.open(uploads).sums, plain(sites.sums))


def test_two_blocks_or_words_that_changed_places_are_found() -> None:
    sums = [{"s": {"x": np.arange(4 * BLOCK, dtype=np.int64) + site}} for site in range(3)]
    sites = Federation(sums, Layout.of(sums[0], {}, 3))
    for one, other, length in [(0, BLOCK, BLOCK), (3, 700, 1)]:
        changed = sums[0]["s"]["x"].copy()
        changed[one : one + length], changed[other : other + length] = (
            sums[0]["s"]["x"][other : other + length],
            sums[0]["s"]["x"][one : one + length],
        )
        honest, swapped = sites.upload(1), Federation([{"s": {"x": changed}}, *sums[1:]], sites.layout).upload(1)
        mixed = {"s": swapped["s"], SECURE: honest[SECURE]}
        with pytest.raises(BadUpdate, match="do not cancel"):
            sites.open({1: mixed, 2: sites.upload(2), 3: sites.upload(3)})


def test_uploads_that_are_not_of_the_layout() -> None:
    sites = federation(3)
    uploads = {site: sites.upload(site) for site in sites.sites}
    good = uploads[2]
    odd: list[dict[str, Tree]] = [
        {name: leaves for name, leaves in good.items() if name != SECURE},
        {**good, "more": {"x": np.zeros(2, np.uint32)}},
        {**good, "weight": {**good["weight"], "n": np.zeros(2, np.uint64)}},
        {**good, "weight": {**good["weight"], "n": np.zeros((), np.int64)}},
    ]
    for upload in odd:
        with pytest.raises(BadUpdate, match="not those of the layout"):
            sites.open(uploads | {2: upload})
    for several in ([], [good] * 4):
        with pytest.raises(BadUpdate, match="cannot be added"):
            unmask(several, sites.layout, CONTEXT, [], [], [])


def test_sums_that_are_not_of_the_layout() -> None:
    sites = federation(3)
    for changed in ({"x": np.zeros(1)}, {"n": np.zeros(2, np.int64), "none": np.zeros((0, 2))}, {"n": np.zeros(()), "none": np.zeros((0, 2))}):
        with pytest.raises(BadUpdate, match="weight/"):
            mask({**sites.sums[0], "weight": changed}, sites.layout, CONTEXT, own(1), [], [])


def test_a_seed_that_is_used_twice_is_refused() -> None:
    sites = federation(3)
    with pytest.raises(Conflict):
        mask(sites.sums[0], sites.layout, CONTEXT, own(1), [pair(1, 2)], [pair(1, 2)])


def p_value(words: Any) -> float:
    """Of Pearson's test that all bytes are equally frequent (normal approximation of chi-squared, Wilson and Hilferty 1931)."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    z = ((statistic / 255) ** (1 / 3) - (1 - 2 / (9 * 255))) / sqrt(2 / (9 * 255))
    return 0.5 * erfc(z / sqrt(2))


def flat(upload: Mapping[str, Tree], leaf: str) -> Any:
    return np.asarray(upload["difference"][leaf]).reshape(-1)


@pytest.mark.parametrize("leaf", ["narrow", "open"])
def test_masked_words_look_random_and_unmasked_ones_do_not(leaf: str) -> None:
    sites = federation(3)
    first, second = sites.upload(1), sites.upload(2)
    assert p_value(flat(first, leaf)) > 1e-6
    assert p_value(flat(first, leaf) - flat(second, leaf)) > 1e-6
    # the coordinator and site 3 together still miss the mask between 1 and 2, and 1's own
    alone = sent(mask(sites.sums[0], sites.layout, CONTEXT, own(1), [pair(1, 2)], []))
    assert p_value(flat(alone, leaf)) > 1e-6
    values = np.asarray(sites.sums[0]["difference"][leaf]).reshape(-1)
    assert abs(np.corrcoef(flat(first, leaf)[: len(values)], values[: flat(first, leaf).size])[0, 1]) < 5 / sqrt(len(values))
    # the power of the test: it does see words that were not masked
    assert p_value((values * 2.0**30).astype(np.int64)) < 1e-6


def test_a_mask_that_is_used_again_shows() -> None:
    one, other = federation(3, seed=1), federation(3, seed=2)
    before, again = one.upload(1), other.upload(1)
    assert p_value(flat(again, "narrow") - flat(before, "narrow")) < 1e-6
    fresh = sent(mask(other.sums[0], other.layout, CONTEXT, own(8), [pair(1, 8), pair(1, 9)], []))
    assert p_value(flat(fresh, "narrow") - flat(before, "narrow")) > 1e-6


def test_the_sum_of_gaussian_updates_is_as_good_as_float32() -> None:
    random = np.random.default_rng(3)
    sums = [{"difference": {"w": random.normal(size=100_000).astype(np.float32)}} for _ in range(10)]
    bound = 2 * sum(float(np.abs(each["difference"]["w"]).max()) for each in sums)
    sites = Federation(sums, Layout.of(sums[0], {"difference": {"w": bound}}, 10))
    found = sites.open({site: sites.upload(site) for site in sites.sites})
    exact = np.sum([each["difference"]["w"] for each in sums], axis=0, dtype=np.float64)
    assert np.linalg.norm(found.sums["difference"]["w"] - exact) <= 1e-6 * np.linalg.norm(exact)
    assert found.saturated == 0


def test_a_large_update_is_masked_and_opened_block_by_block(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    size = 3_000_000

    def stored(leaves: Tree) -> Tree:
        writer = store.create()
        write_tree(leaves, writer)
        return read_tree(store.open(writer.commit()), lazy=True)

    sums = [{"difference": stored({"w": np.full(size, site, np.float32)})} for site in (1, 2, 3)]
    sites = Federation(sums, Layout.of(sums[0], {"difference": {"w": float((2**31 - 1) // 3)}}, 3))
    tracemalloc.start()
    uploads = []
    for site in sites.sites:
        masked = sites.masked(site)
        uploads.append({name: stored(masked[name]) for name in ("difference", SECURE)})
    assert tracemalloc.get_traced_memory()[1] < 2 * size
    tracemalloc.reset_peak()
    found = sites.open(dict(zip(sites.sites, uploads, strict=True)))
    assert tracemalloc.get_traced_memory()[1] < 4 * size + 2 * size
    tracemalloc.stop()
    assert np.array_equal(found.sums["difference"]["w"], np.full(size, 6, np.float32))
