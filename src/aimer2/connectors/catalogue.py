"""Sources by the name of their kind, loaded when asked for: a site without Parquet files needs no pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import ValidationError

from aimer2.connectors.connector import Connector, Source
from aimer2.connectors.mapping import DataMapping, faults_of
from aimer2.core.errors import BadInput, NotAvailable
from aimer2.core.said import say

SourceKind: TypeAlias = Literal["csv", "parquet", "images", "npz"]

_CLASSES: Mapping[SourceKind, str] = {"csv": "Csv", "parquet": "Parquet", "images": "Images", "npz": "Npz"}


def make_connector(
    kind: SourceKind, settings: Mapping[str, Any], mapping: DataMapping, *, split_key: bytes, opted_out: frozenset[str] = frozenset()
) -> Connector:
    """The connector to a source of this kind with the settings of its class, for example ``csv`` and ``{"path": "heart.csv"}``.

    Raises NotAvailable where the kind is unknown or its library is not installed, BadInput where a setting is wrong.
    """
    return Connector(make_source(kind, settings), mapping, split_key, opted_out)


def kind_of(path: Path, *, images: bool) -> SourceKind:
    """By the file's name; ``images``: the table is one of images, whose files it names."""
    if path.suffix == ".npz":
        return "npz"
    if images:
        return "images"
    return "parquet" if path.is_dir() or path.suffix in (".parquet", ".pq") else "csv"


def make_source(kind: SourceKind, settings: Mapping[str, Any]) -> Source:
    """Raises as `make_connector`."""
    if kind not in _CLASSES:
        raise NotAvailable(
            say("There is no source of kind {kind}; there are {SourceKind}.", kind=f"{kind!r}", SourceKind=", ".join(get_args(SourceKind)))
        )
    try:
        module = importlib.import_module(f"aimer2.connectors.{kind}")
    except ModuleNotFoundError:
        raise NotAvailable(
            say("Sources of kind {kind} need an extra.", kind=f"{kind!r}"), remedy=say("Run `pip install 'aimer2[{kind}]'`.", kind=kind)
        ) from None
    try:
        source: Source = getattr(module, _CLASSES[kind]).model_validate(settings)
    except ValidationError as error:
        raise BadInput(say("The {kind} source has faults:\n{error}", kind=kind, error=faults_of(error))) from None
    return source
