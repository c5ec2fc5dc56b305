from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import BadUpdate, OutOfResources
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.site.check import Admitted, Layout, Wanted, check_names, checked, expect, keep, layout_of
from aimer2.site.memory_files import MemoryFile

MODEL = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}
ROOM = 1 << 30


def sealed(data: bytes) -> int:
    file = MemoryFile()
    file.write(data)
    return file.seal()


def as_bytes(tree: Tree) -> bytes:
    store = MemoryStore()
    writer = store.create()
    write_tree(tree, writer)
    return bytes(store.open(writer.commit()).view())


def admit_one(file: int, folder: Path, layout: Layout | None = None, room: int = ROOM) -> Admitted:
    try:
        return keep(checked([file], [Wanted("difference", layout, room)]), FolderStore(folder))[0]
    finally:
        os.close(file)


def test_what_is_stored_is_what_was_made(tmp_path: Path) -> None:
    made = admit_one(sealed(as_bytes(MODEL)), tmp_path, layout_of(MODEL))
    assert made.data is not None and hashlib.sha256(made.data).hexdigest() == made.ref.sha256
    stored = read_tree(FolderStore(tmp_path).open(made.ref))
    assert all(np.array_equal(stored[name], MODEL[name]) for name in MODEL)


@pytest.mark.parametrize(
    "tree",
    [
        {**MODEL, "a": np.full((2, 3), np.nan, np.float32)},
        {**MODEL, "a": np.full((2, 3), np.inf, np.float32)},
        {**MODEL, "a": MODEL["a"].reshape(3, 2)},
        {**MODEL, "a": MODEL["a"].astype(np.float64)},
        {**MODEL, "c": np.ones(1)},
        {"a": MODEL["a"]},
        {},
    ],
    ids=["nan", "infinite", "shape", "type", "extra", "missing", "empty"],
)
def test_any_other_form_is_refused(tmp_path: Path, tree: Tree) -> None:
    with pytest.raises(BadUpdate):
        admit_one(sealed(as_bytes(tree)), tmp_path, layout_of(MODEL))


def test_a_single_number_that_is_not_finite_is_found_in_a_large_sum(tmp_path: Path) -> None:
    large = {"a": np.ones(5_000_000, np.float32)}
    large["a"][-1] = np.nan
    with pytest.raises(BadUpdate):
        admit_one(sealed(as_bytes(large)), tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.suffix != ".sqlite" and "sqlite" not in path.name)


def test_nothing_but_the_numbers_leaves(tmp_path: Path) -> None:
    """A message hidden in the header's order, blanks or fields is gone in what is stored."""
    plain = as_bytes(MODEL)
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    spaced = json.dumps({name: header[name] for name in ("a", "b")}, indent=3).encode() + b" " * 40
    smuggled = len(spaced).to_bytes(8, "little") + spaced + plain[8 + length :]
    assert smuggled != plain
    assert admit_one(sealed(smuggled), tmp_path).data == plain


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[0,99999999999999999999],"data_offsets":[0,0]}}',
        b"\xff",
    ],
    ids=["deep", "infinite length", "too many dimensions", "no text"],
)
def test_a_hostile_header_is_a_bad_update(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(BadUpdate):
        admit_one(sealed(len(header).to_bytes(8, "little") + header), tmp_path)


def test_bytes_that_could_still_change_are_refused(tmp_path: Path) -> None:
    file = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.write(file, as_bytes(MODEL))
    with pytest.raises(BadUpdate, match="sealed"):
        admit_one(file, tmp_path)
    ordinary = tmp_path / "file"
    ordinary.write_bytes(as_bytes(MODEL))
    with pytest.raises(BadUpdate, match="sealed"):
        admit_one(os.open(ordinary, os.O_RDONLY), tmp_path)


def test_a_sum_larger_than_its_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutOfResources):
        admit_one(sealed(as_bytes(MODEL)), tmp_path, room=100)


def test_a_difference_must_mirror_the_model_and_only_stated_sums_may_be_made(a_study: Callable[..., Study]) -> None:
    store = MemoryStore()
    writer = store.create()
    write_tree(MODEL, writer)
    expectation = expect(a_study(), "train", {"model": store.open(writer.commit())})
    assert expectation.layouts["difference"] == layout_of(MODEL)
    check_names(["difference", "weight", "metrics"], expectation)
    with pytest.raises(BadUpdate):
        check_names(["difference", "rows"], expectation)
    for stage in ("preflight", "final"):
        with pytest.raises(BadUpdate):
            check_names(["difference"], expect(a_study(), stage, {}))


@pytest.mark.parametrize(
    ("sum_name", "stage", "good", "shape", "bad"),
    [
        ("weight", "train", "rows", (1,), "patient-4711-hiv"),
        ("metrics", "train", "loss", (1,), "auc of patient 4711"),
        ("metrics", "final", "confusion", (2, 2), "Confusion"),
        ("metrics", "final", "a", (2, 3), "A"),
        ("count", "moments", "columns", (2,), "rows"),
    ],
)
def test_no_array_goes_out_under_a_name_that_a_studys_code_has_made_up(
    tmp_path: Path, a_study: Callable[..., Study], sum_name: str, stage: Any, good: str, shape: tuple[int, ...], bad: str
) -> None:
    """Masks hide numbers; names and shapes go out beside them. An empty array carries 59 bits in its shape and costs no byte. The refusal does not
    tell the name either."""
    store = MemoryStore()
    writer = store.create()
    write_tree(MODEL, writer)
    expectation = expect(a_study(), stage, {"model": store.open(writer.commit())})
    wanted = Wanted(sum_name, expectation.layouts.get(sum_name), expectation.room(sum_name, ROOM), expectation.words)

    def hand_over(name: str, shape: tuple[int, ...]) -> None:
        file = sealed(as_bytes({name: np.ones(shape)}))
        try:
            checked([file], [wanted])
        finally:
            os.close(file)

    hand_over(good, shape)
    with pytest.raises(BadUpdate) as refused:
        hand_over(bad, shape)
    assert bad not in refused.value.sentence
    for told in ((0, int.from_bytes(b"HIV4711")), (4711,), (*shape, 1), ()):
        with pytest.raises(BadUpdate, match="foretold"):
            hand_over(good, told)


def test_of_the_methods_own_arrays_no_shape_is_free(tmp_path: Path, a_study: Callable[..., Study]) -> None:
    store = MemoryStore()
    writer = store.create()
    write_tree(MODEL, writer)
    study = a_study(method={"name": "worst_site"})
    words = expect(study, "train", {"model": store.open(writer.commit())}).words
    for shape in ((1,), (2, 3, 4), (0,), (0, 1 << 50), (1, 1, 1, 2)):
        file = sealed(as_bytes({"share": np.ones(shape)}))
        if 0 in shape or len(shape) > 3:
            with pytest.raises(BadUpdate, match="foretold"):
                checked([file], [Wanted("weight", None, ROOM, words)])
        else:
            checked([file], [Wanted("weight", None, ROOM, words)])
        os.close(file)
