from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.connectors.table import Column, Table, describe, describe_locally, load_table, pseudonyms, save_table
from aimer2.core.errors import BadData, BadInput, Conflict, NotFound, Tampered

KEY = bytes(range(32))


class FixedClock:
    def now(self) -> float:
        return 1_000.0

    def monotonic(self) -> float:
        return 0.0


def small() -> Table:
    return Table(
        {
            "age": Column("number", np.array([63.0, np.nan, 41.5]), unit="a"),
            "sex / Geschlecht": Column("category", np.array([0, 1, -1], np.int32), ("weiblich", "männlich")),
        },
        pseudonyms(["p1", "p2", "p1"], KEY),
    )


def test_a_pseudonym_is_the_head_of_the_hmac() -> None:
    expected = int.from_bytes(hmac.new(KEY, b"p-17", hashlib.sha256).digest()[:8], "big")
    assert pseudonyms(["p-17"], KEY).tolist() == [expected]
    assert pseudonyms(["p-17"], KEY[::-1]).tolist() != [expected]


def test_a_short_key_is_refused() -> None:
    with pytest.raises(BadInput):
        pseudonyms(["p"], b"secret")


@given(st.lists(st.tuples(st.floats(allow_infinity=False, width=64), st.integers(-1, 2), st.text(min_size=1, max_size=5)), max_size=20))
def test_a_table_comes_back_as_it_was_saved(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int, str]]) -> None:
    folder = tmp_path_factory.mktemp("store") / "snapshot"
    numbers, codes, ids = ([row[part] for row in rows] for part in range(3))
    columns = {"x": Column("number", np.array(numbers, float)), "c": Column("category", np.array(codes, np.int32), ("a", "b", "c"))}
    table = Table(columns, pseudonyms([str(i).encode("utf-8", "replace").decode() for i in ids], KEY))
    save_table(table, folder, clock=FixedClock())
    back = load_table(folder, verify=True)
    np.testing.assert_array_equal(back.columns["x"].values, table.columns["x"].values)
    np.testing.assert_array_equal(back.columns["c"].values, table.columns["c"].values)
    np.testing.assert_array_equal(back.patient, table.patient)


def test_a_snapshot_keeps_what_the_columns_mean_and_is_mapped_read_only(tmp_path: Path) -> None:
    snapshot = save_table(small(), tmp_path / "s", clock=FixedClock(), opted_out=4)
    assert (snapshot.rows, snapshot.patients, snapshot.created, snapshot.opted_out) == (3, 2, 1_000.0, 4)
    back = load_table(snapshot.path, verify=True, sha256=snapshot.sha256)
    assert list(back.columns) == ["age", "sex / Geschlecht"]
    assert back.columns["age"].unit == "a"
    assert back.columns["sex / Geschlecht"].categories == ("weiblich", "männlich")
    assert not back.columns["age"].values.flags.writeable
    assert isinstance(back.patient.base, np.memmap)
    assert {path.stat().st_mode & 0o777 for path in snapshot.path.iterdir()} == {0o400}


def test_the_same_table_gives_the_same_bytes_and_another_table_others(tmp_path: Path) -> None:
    first, second = (save_table(small(), tmp_path / name, clock=FixedClock()) for name in "ab")
    changed = Table({**small().columns, "age": Column("number", np.array([63.0, np.nan, 41.5]), unit="mo")}, small().patient)
    assert first.sha256 == second.sha256 != save_table(changed, tmp_path / "c", clock=FixedClock()).sha256


def test_the_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    snapshot = save_table(small(), tmp_path / "s", clock=FixedClock())
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=snapshot.path, check=True)


@pytest.mark.parametrize("name", ["0000.npy", "0001.npy", "patient.npy", "columns.json", "SHA256SUMS"])
def test_any_changed_byte_of_any_file_is_noticed(tmp_path: Path, name: str) -> None:
    snapshot = save_table(small(), tmp_path / "s", clock=FixedClock())
    file = snapshot.path / name
    file.chmod(0o600)
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(Tampered):
            load_table(snapshot.path, verify=True)


def test_a_file_more_or_fewer_is_noticed(tmp_path: Path) -> None:
    snapshot = save_table(small(), tmp_path / "s", clock=FixedClock())
    (snapshot.path / "0002.npy").write_bytes(b"x")
    with pytest.raises(Tampered):
        load_table(snapshot.path, verify=True)
    (snapshot.path / "0002.npy").unlink()
    (snapshot.path / "0001.npy").unlink()
    for verify in (True, False):
        with pytest.raises(Tampered):
            load_table(snapshot.path, verify=verify)


def test_a_snapshot_put_in_the_place_of_another_is_noticed_by_its_recorded_digest(tmp_path: Path) -> None:
    recorded = save_table(small(), tmp_path / "s", clock=FixedClock()).sha256
    forged = save_table(Table({}, small().patient), tmp_path / "t", clock=FixedClock())
    load_table(forged.path, verify=True)
    with pytest.raises(Tampered):
        load_table(forged.path, verify=False, sha256=recorded)


def test_a_snapshot_is_never_overwritten_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(Conflict):
        save_table(small(), tmp_path / "s", clock=FixedClock())
    with pytest.raises(NotFound):
        save_table(small(), tmp_path / "no" / "s", clock=FixedClock())
    assert os.listdir(tmp_path) == ["s"]
    with pytest.raises(NotFound):
        load_table(tmp_path / "s", verify=True)


@pytest.mark.parametrize(
    "column",
    [
        Column("number", np.array([1.0, np.inf, 0.0])),
        Column("number", np.array([1.0, 2.0])),
        Column("number", np.array([1.0, 2.0, 3.0], np.float32)),
        Column("number", np.array([1.0, 2.0, 3.0]), ("a",)),
        Column("category", np.array([0, 1, 2], np.int32), ("a", "b")),
        Column("category", np.array([0, -2, 1], np.int32), ("a", "b")),
        Column("category", np.array([0, 0, 0], np.int32), ("a", "a")),
        Column("category", np.array([0, 0, 0], np.int32)),
    ],
)
def test_a_column_that_is_not_what_it_says_is_refused(column: Column) -> None:
    with pytest.raises(BadData):
        Table({"x": column}, small().patient)


def patients(sizes: list[int]) -> Table:
    """One category per size with so many patients, two rows each, ages 0, 1, 2, …"""
    codes = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    ids = pseudonyms([str(number) for number in range(len(codes))], KEY)
    ages = np.arange(len(codes), dtype=float)
    columns = {"group": Column("category", np.tile(codes, 2), tuple(f"g{n}" for n in range(len(sizes)))), "age": Column("number", np.tile(ages, 2))}
    return Table(columns, np.tile(ids, 2))


def test_what_is_published_counts_patients_rounds_and_hides_small_cells() -> None:
    description = describe(patients([0, 1, 9, 10, 12, 13, 100]))
    group, age = description.columns
    assert group.categories == {"g3": "10", "g4": "10", "g5": "15", "g6": "100", "(rarer)": "10"}
    assert (description.patients, description.rows, group.missing) == ("145", "290", "<10")
    assert age.quantiles == ()


def test_a_category_of_too_few_patients_is_not_even_named() -> None:
    surnames = describe(patients([1] * 40)).columns[0]
    assert surnames.categories == {"(rarer)": "40"}, "all of them together are enough patients"
    assert describe(patients([9, 0, 30])).columns[0].categories == {"g2": "30", "(rarer)": "<10"}
    assert describe(patients([12, 25, 30]), minimum_cell=20).columns[0].categories == {"g1": "25", "g2": "30", "(rarer)": "<20"}


def test_many_rows_of_few_patients_do_not_tell_how_few() -> None:
    few = Table({"x": Column("number", np.zeros(400))}, np.repeat(pseudonyms(["a", "b"], KEY), 200))
    assert (describe(few).rows, describe(few).patients) == ("<10", "<10")


def test_the_local_description_is_exact() -> None:
    local = describe_locally(patients([3, 4]))
    assert (local.rows, local.patients) == ("14", "7")
    assert local.columns[0].categories == {"g0": "3", "g1": "4"}
    assert local.columns[1].quantiles == (0, 1.25, 3, 4.75, 6)
