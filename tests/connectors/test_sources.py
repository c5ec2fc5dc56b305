"""CSV, Parquet and frames, by the way a site uses them: `make_connector`, read, describe, refresh."""

from __future__ import annotations

import builtins
import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimer2.connectors.catalogue import make_connector
from aimer2.connectors.connector import Connector, read_opt_out
from aimer2.connectors.csv import Csv
from aimer2.connectors.frame import from_frame
from aimer2.connectors.mapping import DataMapping
from aimer2.connectors.table import load_table, pseudonyms
from aimer2.core.errors import BadData, BadInput, NotAvailable, NotFound

KEY = bytes(range(32))
MARKER = "Ecce-Homo-1987"
MAPPING = DataMapping.model_validate(
    {"patient": "id", "missing": ["NA"], "columns": {"age": {"unit": "a"}, "sex": {"kind": "category", "categories": ["f", "m"]}}}
)


class FixedClock:
    def now(self) -> float:
        return 5.0

    def monotonic(self) -> float:
        return 0.0


def csv(tmp_path: Path, text: str | bytes, **settings: Any) -> Connector:
    path = tmp_path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return make_connector("csv", {"path": path, **settings}, MAPPING, split_key=KEY)


def assert_is_the_example(connector: Connector) -> None:
    table = connector.read()
    np.testing.assert_array_equal(table.columns["age"].values, [63.0, np.nan, 41.5])
    assert table.columns["sex"].values.tolist() == [0, 1, -1]
    assert table.patient.tolist() == pseudonyms(["007", "8", "007"], KEY).tolist()


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("id,age,sex\n007,63,f\n8,NA,m\n007,41.5,\n", {}),
        ('"id","age","note","sex"\r\n"007","63","a, ""b""\r\nc","f"\r\n"8","NA","","m"\r\n"007","41.5","",""\r\n', {}),
        ("007;63;f\n8;NA;m\n007;41.5;\n", {"delimiter": ";", "names": ["id", "age", "sex"]}),
        ("id\tage\tsex\tü\n007\t63\tf\tä\n8\tNA\tm\t\n007\t41.5\tNA\t\n".encode("latin-1"), {"delimiter": "\t", "encoding": "latin-1"}),
        ("id,age,sex\n007,63,f\n8,NA,m\n007,41.5,\n".encode("utf-8-sig"), {}),
    ],
)
def test_csv_in_its_dialects(tmp_path: Path, text: str | bytes, settings: dict[str, Any]) -> None:
    assert_is_the_example(csv(tmp_path, text, **settings))


@pytest.mark.parametrize("type_of_age", ["double", "string", "int", "dictionary"])
def test_parquet_with_numbers_or_texts(tmp_path: Path, type_of_age: str) -> None:
    ages = {
        "double": pa.array([63.0, None, 41.5]),
        "string": pa.array(["63", "NA", "41.5"]),
        "int": pa.array([126, None, 83], pa.int16()),
        "dictionary": pa.array(["63", None, "41.5"]).dictionary_encode(),
    }
    columns = {
        "id": ["007", "8", "007"],
        "age": ages[type_of_age],
        "sex": pa.array(["f", "m", None]).dictionary_encode(),
        "day": [datetime.date(2020, 1, 1)] * 3,
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    mapping = MAPPING
    if type_of_age == "int":
        mapping = DataMapping.model_validate({**MAPPING.model_dump(), "columns": {**MAPPING.columns, "age": {"unit": "a", "factor": 0.5}}})
    assert_is_the_example(make_connector("parquet", {"path": tmp_path / "data.parquet"}, mapping, split_key=KEY))


def test_long_integer_ids_in_parquet_stay_distinct(tmp_path: Path) -> None:
    ids = [2**60, 2**60 + 1]
    pq.write_table(pa.table({"id": ids, "age": [1.0, 2.0], "sex": ["f", "f"]}), tmp_path / "d.parquet")
    table = make_connector("parquet", {"path": tmp_path / "d.parquet"}, MAPPING, split_key=KEY, opted_out=frozenset({str(2**60)})).read()
    assert table.patient.tolist() == pseudonyms([str(2**60 + 1)], KEY).tolist()


def test_without_pyarrow_a_parquet_source_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aimer2.connectors.parquet", raising=False)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotAvailable) as caught:
        make_connector("parquet", {"path": "x"}, MAPPING, split_key=KEY)
    assert "aimer2[parquet]" in caught.value.advice


def test_wrong_kinds_and_settings_are_refused() -> None:
    with pytest.raises(NotAvailable, match="csv, parquet"):
        make_connector("excel", {}, MAPPING, split_key=KEY)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="delimiter"):
        make_connector("csv", {"path": "x", "delimiter": "ab"}, MAPPING, split_key=KEY)
    with pytest.raises(BadInput, match="path"):
        make_connector("csv", {}, MAPPING, split_key=KEY)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (f"id,age,sex\n1,2,f,{MARKER}\n".encode(), {}),
        (f'id,age,sex\n1,"2,f,{MARKER}\n'.encode(), {}),
        (f"id,age,sex\n1,{MARKER}\xff,f\n".encode("latin-1"), {}),
        (f"id,age,sex\n1,{MARKER},f\n".encode(), {}),
        (f"id,age,sex\n1,2,{MARKER}\n".encode(), {}),
        (f"{MARKER},2,f\n".encode(), {}),
        (f"id,age,sex,age\n1,2,f,{MARKER}\n".encode(), {}),
        (f"{MARKER},2,f\n".encode(), {"names": ["id", "age", "sex", "more"]}),
        (f"{MARKER},2,f\n".encode(), {"encoding": "no-such"}),
        (b"", {}),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_without_quoting_it(tmp_path: Path, content: bytes, settings: dict[str, Any]) -> None:
    with pytest.raises(BadData) as caught:
        csv(tmp_path, content, **settings).read()
    assert MARKER not in caught.value.sentence + caught.value.advice
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_files_that_are_not_there_or_not_parquet(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Csv(path=tmp_path / "none.csv").cells(["x"])
    with pytest.raises(NotFound):
        make_connector("parquet", {"path": tmp_path / "none"}, MAPPING, split_key=KEY).read()
    (tmp_path / "x.parquet").write_text(MARKER)
    with pytest.raises(BadData) as caught:
        make_connector("parquet", {"path": tmp_path / "x.parquet"}, MAPPING, split_key=KEY).read()
    assert MARKER not in caught.value.sentence


def test_a_refresh_leaves_out_exactly_those_on_the_list_and_says_how_many_rows(tmp_path: Path) -> None:
    rows = "".join(f"p{number % 40},{number % 90},{'fm'[number % 2]}\n" for number in range(100))
    (tmp_path / "optout.txt").write_text("# asked by letter\np3\n\n p11 \nunknown\n")
    (tmp_path / "data.csv").write_text("id,age,sex\n" + rows)
    opted_out = read_opt_out(tmp_path / "optout.txt")
    connector = make_connector("csv", {"path": tmp_path / "data.csv"}, MAPPING, split_key=KEY, opted_out=opted_out)
    snapshot = connector.refresh(tmp_path / "snapshot", clock=FixedClock())
    assert (snapshot.rows, snapshot.patients, snapshot.opted_out, snapshot.created) == (94, 38, 6, 5.0)
    table = load_table(snapshot.path, verify=True, sha256=snapshot.sha256)
    expected = pseudonyms([f"p{number}" for number in range(40) if number not in (3, 11)], KEY)
    assert set(table.patient.tolist()) == set(expected.tolist())
    assert connector.describe().patients == "40"
    assert "p3" not in repr(connector)
    assert repr(KEY) not in repr(connector)


def test_a_list_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        read_opt_out(tmp_path / "none.txt")


HEART = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
HEART_MAPPING = DataMapping.model_validate(
    {
        "missing": ["?"],
        "columns": {
            **{name: {} for name in ("trestbps", "thalach", "oldpeak", "ca")},
            "age": {"unit": "a"},
            "chol": {"unit": "mg/dL", "missing": ["0"]},
            "sex": {"kind": "category", "categories": ["female", "male"], "values": {"0": "female", "1": "male"}},
            "cp": {"kind": "category", "categories": ["1", "2", "3", "4"]},
            "disease": {
                "source": "num",
                "kind": "category",
                "categories": ["no", "yes"],
                "values": {"0": "no", "1": "yes", "2": "yes", "3": "yes", "4": "yes"},
            },
        },
    }
)


@pytest.mark.parametrize(
    ("hospital", "rows", "diseased", "without_chol"),
    [("cleveland", 303, 139, 0), ("hungarian", 294, 106, 23), ("switzerland", 123, 115, 123), ("va", 200, 149, 56)],
)
def test_four_hospitals_by_one_mapping(data_dir: Path, hospital: str, rows: int, diseased: int, without_chol: int) -> None:
    path = data_dir / "heart-disease-4sites" / f"processed.{hospital}.data"
    table = make_connector("csv", {"path": path, "names": HEART}, HEART_MAPPING, split_key=KEY).read()
    assert len(table) == len(set(table.patient.tolist())) == rows
    assert int((table.columns["disease"].values == 1).sum()) == diseased
    assert int(table.columns["chol"].missing.sum()) == without_chol
    assert not table.columns["age"].missing.any()
    # Only standard codes: Cleveland writes 1.0, the others 1.
    assert {0, 1} == set(table.columns["sex"].values.tolist())


def test_a_frame_is_a_table() -> None:
    frame = pd.DataFrame(
        {"id": [1, 1, 2], "n": [1, 2, 3], "x": [0.5, None, 2.0], "b": [True, False, True], "c": pd.Categorical(["u", None, "v"], ["v", "u"])}
    )
    table = from_frame(frame, split_key=KEY, patient="id", units={"x": "kg"})
    assert table.patient.tolist() == pseudonyms(["1", "1", "2"], KEY).tolist()
    assert table.columns["n"].values.tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(table.columns["x"].values, [0.5, np.nan, 2.0])
    assert (table.columns["x"].unit, table.columns["b"].values.tolist(), table.columns["b"].categories) == ("kg", [1, 0, 1], ("false", "true"))
    assert (table.columns["c"].values.tolist(), table.columns["c"].categories) == ([1, -1, 0], ("v", "u"))
    assert len(set(from_frame(frame, split_key=KEY).patient.tolist())) == 3


def test_texts_in_a_frame_are_not_taken_for_categories() -> None:
    with pytest.raises(BadData) as caught:
        from_frame(pd.DataFrame({"name": [MARKER, "x"]}), split_key=KEY)
    assert MARKER not in caught.value.sentence + caught.value.advice
    with pytest.raises(BadData, match="1 rows"):
        from_frame(pd.DataFrame({"id": ["a", None], "x": [1, 2]}), split_key=KEY, patient="id")
