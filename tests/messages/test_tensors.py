"""The tensor blob: unique bytes, the safetensors layout, and no lie that is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryBlob, MemoryStore
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.task import BlobRef
from aimer2.core.tree import FileArray
from aimer2.messages import tensors
from aimer2.messages.tensors import read_tree, write_tree

DTYPES = ["float16", "float32", "float64", "int64", "uint8", "uint16", "uint32", "uint64"]

leaves = st.builds(
    lambda shape, dtype, seed: np.asarray(np.random.default_rng(seed).uniform(0 if dtype[0] == "u" else -300, 300, shape), dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
)
trees = st.dictionaries(st.sampled_from(["a", "b.weight", "b.bias", "ß", "", "z/1"]), leaves, max_size=5)


def written(given_tree: Any) -> bytes:
    store = MemoryStore()
    writer = store.create()
    write_tree(given_tree, writer)
    return bytes(store.open(writer.commit()).view())


def blob(data: bytes) -> MemoryBlob:
    return MemoryBlob(BlobRef(sha256="0" * 64, size=len(data)), data)


def of_header(header: Any, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        (one[name].shape, one[name].dtype, tree.load(one[name]).tobytes()) == (other[name].shape, other[name].dtype, tree.load(other[name]).tobytes())
        for name in one
    )


@given(trees)
def test_a_tree_comes_back(given_tree: dict[str, Any]) -> None:
    data = written(given_tree)
    assert same(read_tree(blob(data)), given_tree)
    assert written(read_tree(blob(data))) == data


@given(trees)
def test_equal_trees_have_equal_bytes_whatever_the_order_of_their_names(given_tree: dict[str, Any]) -> None:
    assert written(dict(reversed(given_tree.items()))) == written(given_tree)


@given(trees)
def test_the_safetensors_library_reads_what_we_write(given_tree: dict[str, Any]) -> None:
    assert same(safetensors.numpy.load(written(given_tree)), given_tree)


@given(trees)
def test_we_read_what_the_safetensors_library_writes(given_tree: dict[str, Any]) -> None:
    assert same(read_tree(blob(safetensors.numpy.save(given_tree))), given_tree)


def test_the_layout_of_other_arrays_does_not_show() -> None:
    plain = np.arange(12, dtype=np.float64).reshape(3, 4)
    strided = np.zeros((6, 8))[::2, ::2]
    strided[...] = plain
    others = [np.asfortranarray(plain), plain.astype(">f8"), strided, plain[::-1][::-1], plain.T.copy().T]
    assert not strided.flags.c_contiguous
    assert {written({"w": other}) for other in others} == {written({"w": plain})}


def test_words_travel_to_their_last_bit() -> None:
    words = {"low": np.array([0, 1, 2**31, 2**32 - 1], np.uint32), "high": np.array([[0, 2**63], [2**64 - 1, 1]], np.uint64)}
    assert same(read_tree(blob(written(words))), words)


def test_what_is_read_cannot_be_written_to() -> None:
    leaf = read_tree(blob(written({"w": np.ones(3)})))["w"]
    assert isinstance(leaf, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        leaf += 1


def test_arrays_after_an_odd_one_can_be_read() -> None:
    given_tree = {"a": np.ones(3, np.float32), "b": np.arange(2.0), "c": np.array(5, np.int64)}
    assert same(read_tree(blob(written(given_tree))), given_tree)


def test_large_blobs_stay_in_their_file_when_read_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "LAZY_BYTES", 100_000)
    store = FolderStore(tmp_path)
    given_tree = {"w": np.arange(30_001.0).reshape(1, -1), "b": np.float32(2.5) * np.ones((), np.float32), "none": np.zeros((0, 3), np.int64)}
    writer = store.create()
    write_tree(given_tree, writer)
    stored = store.open(writer.commit())
    lazy = read_tree(stored, lazy=True)
    assert all(isinstance(leaf, FileArray) for leaf in lazy.values())
    assert same(lazy, given_tree)
    assert same(read_tree(stored), given_tree)
    assert written(lazy) == written(given_tree)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "bool", "complex64", "datetime64[s]"])
def test_other_types_do_not_travel(dtype: str) -> None:
    with pytest.raises(BadUpdate, match=r"only float16, float32, float64, int64, uint8, uint16, uint32 and uint64"):
        written({"w": np.zeros(2, dtype)})


@pytest.mark.parametrize("name", ["__metadata__", "a\nb", "\ud800", "a\x00"])
def test_names_that_no_blob_can_have(name: str) -> None:
    with pytest.raises(BadUpdate, match="no name"):
        written({name: np.zeros(2)})


F8 = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
LIES: dict[str, bytes] = {
    "nothing": b"",
    "half a length": b"\x08\x00",
    "a header that is not there": (1000).to_bytes(8, "little") + b"{}",
    "a header larger than memory": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": of_header("hello"),
    "not UTF-8": (4).to_bytes(8, "little") + b"{\xff\xfe}",
    "a list": of_header([1]),
    "a number": of_header("7"),
    "nested without end": of_header("[" * 200_000),
    "metadata": of_header({"__metadata__": {"note": "patient 7"}}),
    "an entry that is no object": of_header({"w": 1}),
    "no type": of_header({"w": {"shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "an unknown type": of_header({"w": F8 | {"dtype": "F16"}}, bytes(8)),
    "a type that cannot be looked up": of_header({"w": F8 | {"dtype": ["F64"]}}, bytes(8)),
    "a negative shape": of_header({"w": F8 | {"shape": [-1]}}, bytes(8)),
    "two negative lengths": of_header({"w": F8 | {"shape": [-1, -1]}}, bytes(8)),
    "a shape of fractions": of_header({"w": F8 | {"shape": [1.5]}}, bytes(8)),
    "a shape of texts": of_header({"w": F8 | {"shape": ["1"]}}, bytes(8)),
    "a shape that is true": of_header({"w": F8 | {"shape": [True]}}, bytes(8)),
    "an infinite shape": of_header('{"w":{"dtype":"F64","shape":[1e999],"data_offsets":[0,8]}}', bytes(8)),
    "a shape that is no list": of_header({"w": F8 | {"shape": 1}}, bytes(8)),
    "an empty array too large": of_header({"w": F8 | {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
    "an array of too many dimensions": of_header({"w": F8 | {"shape": [1] * 100}}, bytes(8)),
    "an array larger than the blob": of_header({"w": F8 | {"shape": [2], "data_offsets": [0, 16]}}, bytes(8)),
    "an array as large as the address space": of_header({"w": F8 | {"shape": [2**61], "data_offsets": [0, 2**64]}}, bytes(8)),
    "bytes that belong to nothing": of_header({"w": F8}, bytes(9)),
    "a gap": of_header({"w": F8, "v": F8 | {"data_offsets": [9, 17]}}, bytes(17)),
    "overlapping arrays": of_header({"w": F8, "v": F8 | {"data_offsets": [4, 12]}}, bytes(12)),
    "one array twice": of_header({"w": F8, "v": F8}, bytes(8)),
    "a length that is not the shape's": of_header({"w": F8 | {"data_offsets": [0, 7]}}, bytes(7)),
    "offsets in reverse": of_header({"w": F8 | {"data_offsets": [8, 0]}}, bytes(8)),
    "one offset": of_header({"w": F8 | {"data_offsets": [0]}}, bytes(8)),
    "offsets of texts": of_header({"w": F8 | {"data_offsets": ["0", "8"]}}, bytes(8)),
    "offsets of infinity": of_header('{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,1e999]}}', bytes(8)),
    "a name that cannot be shown": of_header('{"\\ud800":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}', bytes(8)),
    "a name of two lines": of_header({"a\nb": F8}, bytes(8)),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadUpdate):
        read_tree(blob(LIES[lie]))
    monkeypatch.setattr(tensors, "LAZY_BYTES", 0)
    (tmp_path / "lie").write_bytes(LIES[lie])
    from_file = type("InFile", (), {"path": tmp_path / "lie", "ref": BlobRef(sha256="0" * 64, size=len(LIES[lie]))})()
    with pytest.raises(BadUpdate):
        read_tree(from_file, lazy=True)


@given(data=st.binary(max_size=200), length=st.integers(0, 220))
def test_any_bytes_are_a_tree_or_refused(data: bytes, length: int) -> None:
    for whole in (data, length.to_bytes(8, "little") + data):
        try:
            read_tree(blob(whole))
        except BadUpdate:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.integers() | st.floats() | st.sampled_from(["F64", "F32", "I64", "", "0"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    header=st.dictionaries(
        st.text(max_size=3), st.fixed_dictionaries({"dtype": json_values, "shape": json_values, "data_offsets": json_values}), max_size=2
    ),
    room=st.integers(0, 32),
)
def test_any_header_is_a_tree_or_refused(header: Any, room: int) -> None:
    try:
        found = read_tree(blob(of_header(header, bytes(room))))
    except BadUpdate:
        return
    assert sum(leaf.nbytes for leaf in found.values() if isinstance(leaf, np.ndarray)) == room


@given(given_tree=trees, place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_a_damaged_blob_is_a_tree_or_refused(given_tree: dict[str, Any], place: int, value: int, cut: int) -> None:
    whole = bytearray(written(given_tree))
    with pytest.raises(BadUpdate):
        read_tree(blob(bytes(whole[: cut % len(whole)])))
    whole[place % len(whole)] = value
    try:
        read_tree(blob(bytes(whole)))
    except BadUpdate:
        return
