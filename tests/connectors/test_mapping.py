from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.connectors.mapping import DataMapping, apply, read_mapping
from aimer2.connectors.table import Column, pseudonyms
from aimer2.core.errors import BadData, BadInput

KEY = bytes(range(32))


def cells(*texts: str | None) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array(texts, object)


def mapped(column: dict[str, Any], raw: np.ndarray[Any, Any], **other: Any) -> Column:
    mapping = DataMapping.model_validate({"columns": {"x": column}, **other})
    return apply(mapping, {"x": raw}, split_key=KEY).table.columns["x"]


def test_a_mapping_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(
        """
        patient = "PAT_ID"
        missing = ["?", "NA"]
        [columns.chol]
        source = "CHOLESTEROL"
        unit = "mg/dL"
        source_unit = "mmol/L"
        factor = 38.67
        missing = ["0"]
        [columns.sex]
        kind = "category"
        categories = ["female", "male"]
        values = { "0" = "female", "1" = "male" }
        """
    )
    mapping = read_mapping(path)
    raw = {"PAT_ID": cells("a", "b", "a "), "CHOLESTEROL": cells("5", "0", "?"), "sex": cells("1.0", "NA", "0"), "more": cells("", "", "")}
    table = apply(mapping, raw, split_key=KEY).table
    np.testing.assert_allclose(table.columns["chol"].values, [193.35, np.nan, np.nan])
    assert table.columns["chol"].unit == "mg/dL"
    assert table.columns["sex"].values.tolist() == [1, -1, 0]
    assert table.patient.tolist() == pseudonyms(["a", "b", "a"], KEY).tolist()
    assert set(table.columns) == {"chol", "sex"}


def test_numbers_are_read_as_written() -> None:
    column = mapped({}, cells("1", " 2.5 ", "-3e2", "", None, "NA"), missing=["NA"])
    np.testing.assert_array_equal(column.values, [1.0, 2.5, -300.0, np.nan, np.nan, np.nan])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_any_number_survives_its_text(numbers: list[float]) -> None:
    np.testing.assert_allclose(mapped({}, cells(*map(repr, numbers))).values, numbers, rtol=1e-15)


@pytest.mark.parametrize("text", ["inf", "nan", "1_000", "0x10", "1,5", "12 kg", "True", "1e999"])
def test_what_is_no_number_is_counted_not_guessed(text: str) -> None:
    with pytest.raises(BadData, match="'x': 2 cells"):
        mapped({}, cells("1", text, text))


def test_a_decimal_comma_is_read_where_declared_and_a_point_then_is_not() -> None:
    np.testing.assert_array_equal(mapped({}, cells("1,5", "2", "-9,0"), decimal=",", missing=["-9"]).values, [1.5, 2.0, np.nan])
    with pytest.raises(BadData, match="1 cells"):
        mapped({}, cells("1.500"), decimal=",")


def test_markers_match_as_numbers_too_and_only_in_their_column() -> None:
    mapping = DataMapping.model_validate({"columns": {"x": {"missing": ["-9"]}, "y": {}}})
    table = apply(mapping, {"x": np.array([-9.0, 9.0]), "y": cells("-9", "-9.0")}, split_key=KEY).table
    np.testing.assert_array_equal(table.columns["x"].values, [np.nan, 9.0])
    np.testing.assert_array_equal(table.columns["y"].values, [-9.0, -9.0])


def test_markers_are_of_the_source_not_of_the_converted_number() -> None:
    column = mapped({"unit": "Cel", "source_unit": "[degF]", "missing": ["0"]}, cells("32", "0", "98.6"))
    np.testing.assert_allclose(column.values, [0.0, np.nan, 37.0], atol=1e-12)


def test_categories_are_matched_by_value() -> None:
    column = mapped(
        {"kind": "category", "categories": ["no", "yes"], "values": {"0": "no", "1": "yes", "2": "yes", "j": "yes"}},
        cells("2", "00", "1.0", " j ", ""),
    )
    assert column.values.tolist() == [1, 0, 1, 1, -1]
    plain = mapped({"kind": "category", "categories": ["a", "b"]}, cells("b", "a", "?"), missing=["?"])
    assert plain.values.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    "column",
    [
        {"kind": "category"},
        {"kind": "category", "categories": ["a", "a"]},
        {"kind": "category", "categories": ["a"], "unit": "kg"},
        {"kind": "category", "categories": ["a"], "values": {"1": "b"}},
        {"kind": "category", "categories": ["a", "b"], "values": {"1": "a", "1.0": "b"}},
        {"categories": ["a"]},
        {"unit": "mg/dL", "source_unit": "mmol/L"},
        {"source_unit": "cm"},
        {"factor": float("inf")},
        {"typo": 1},
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(column: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DataMapping.model_validate({"columns": {"x": column}})


def test_every_fault_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text('patient = 3\n[columns.a]\nkind = "category"\n[columns.b]\nsource_unit = "cm"\nunit = "kg"')
    with pytest.raises(BadInput) as caught:
        read_mapping(path)
    assert all(place in caught.value.sentence for place in ("patient:", "columns.a:", "columns.b:"))
    path.write_text("patient = ")
    with pytest.raises(BadInput):
        read_mapping(path)


def test_those_who_opted_out_are_left_out_before_anything_is_made_of_them() -> None:
    mapping = DataMapping.model_validate({"patient": "id", "columns": {"x": {}}})
    raw = {"id": cells("7", "8", "7", "9"), "x": cells("not a number", "1", "2", "3")}
    applied = apply(mapping, raw, split_key=KEY, opted_out=frozenset({"7", "12"}))
    assert applied.opted_out == 2
    assert applied.table.columns["x"].values.tolist() == [1.0, 3.0]
    assert applied.table.patient.tolist() == pseudonyms(["8", "9"], KEY).tolist()


def test_ids_from_a_column_of_floats_are_those_of_the_list() -> None:
    mapping = DataMapping.model_validate({"patient": "id", "columns": {"x": {}}})
    applied = apply(mapping, {"id": np.array([7.0, 8.0]), "x": cells("1", "2")}, split_key=KEY, opted_out=frozenset({"7"}))
    assert applied.table.columns["x"].values.tolist() == [2.0]


def test_an_opt_out_list_that_cannot_be_applied_stops_everything() -> None:
    mapping = DataMapping.model_validate({"columns": {"x": {}}})
    with pytest.raises(BadData, match="opt-out"):
        apply(mapping, {"x": cells("1")}, split_key=KEY, opted_out=frozenset({"7"}))


def test_rows_without_an_id_and_columns_that_are_not_there_are_named() -> None:
    mapping = DataMapping.model_validate({"patient": "id", "columns": {"x": {}, "y": {"source": "Y"}}})
    with pytest.raises(BadData, match="no column 'id', 'Y'"):
        apply(mapping, {"x": cells("1")}, split_key=KEY)
    with pytest.raises(BadData, match="2 rows have no patient id"):
        apply(mapping, {"id": cells("", "a", None), "x": cells("1", "1", "1"), "Y": cells("1", "1", "1")}, split_key=KEY)


MARKER = "Ecce-Homo-1987"


@pytest.mark.parametrize("column", [{}, {"kind": "category", "categories": ["a"]}, {"unit": "m", "source_unit": "cm", "missing": ["?"]}])
def test_no_error_quotes_a_cell(column: dict[str, Any]) -> None:
    with pytest.raises(BadData) as caught:
        mapped(column, cells("1", MARKER))
    error = caught.value
    assert MARKER not in f"{error.sentence} {error.advice} {error.__cause__}"
    assert error.__suppress_context__ or error.__context__ is None
