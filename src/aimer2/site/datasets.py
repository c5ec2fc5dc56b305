"""The hospital's data sets: made known once, then refreshed from their source into read-only snapshots. Nothing here leaves the site."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import numpy as np
from pydantic import Field, ValidationError

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.connectors.catalogue import SourceKind, make_connector
from aimer2.connectors.connector import Connector, read_opt_out
from aimer2.connectors.mapping import Cells, DataMapping, faults_of, read_mapping, texts
from aimer2.connectors.table import DataDescription, describe, describe_locally, load_table
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.core.said import say
from aimer2.core.study import NAME
from aimer2.core.task import Document
from aimer2.messages.told import DataPublished
from aimer2.privacy.disclosure import MINIMUM_CELL
from aimer2.site import publishing, snapshots
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention, read_settings, read_toml
from aimer2.site.snapshots import SnapshotRecord

MOST_CATEGORIES = 50


class DatasetSettings(Document):
    """`dataset.toml`: where the data come from. `mapping.toml` beside it says what they mean."""

    name: str = Field(pattern=NAME)
    kind: SourceKind
    source: Mapping[str, Any]
    opt_out: Path | None = Field(default=None, description="text file with the ids of patients who do not take part, one a line")


@final
@dataclass(frozen=True, slots=True)
class Datasets:
    """The data sets of one site; ``by`` is who does it, for the audit log."""

    folder: SiteFolder
    audit: AuditLog
    clock: Clock
    retention: Retention
    by: str

    def add(self, settings: DatasetSettings, mapping: str) -> None:
        """Makes a data set known; ``mapping`` is the text of its mapping file. Raises Conflict where the name is taken."""
        place = self.folder.dataset(settings.name)
        if place.exists():
            raise Conflict(say("There is a data set '{name}' already.", name=settings.name), remedy="Choose another name, or edit its files.")
        (place / "snapshots").mkdir(parents=True, mode=0o700)
        try:
            (place / "mapping.toml").write_text(mapping, encoding="utf-8")
            read_mapping(place / "mapping.toml")
            # Written last: a data set is there when this file is.
            (place / "dataset.toml").write_text(_settings_text(settings), encoding="utf-8")
        except BaseException:
            shutil.rmtree(place)
            raise
        self.audit.append(Kind.DATASET_ADDED, actor=self.by, details={"dataset": settings.name, "kind": settings.kind})

    def mapping(self, name: str) -> str:
        """What its columns mean, as it is written."""
        self.settings(name)
        return (self.folder.dataset(name) / "mapping.toml").read_text(encoding="utf-8")

    def change(self, name: str, mapping: str) -> None:
        """Another text of its mapping file, from the next refresh on. Raises BadInput with every fault, and then nothing has changed."""
        self.settings(name)
        path = self.folder.dataset(name) / "mapping.toml"
        draft = path.with_suffix(".draft")
        draft.write_text(mapping, encoding="utf-8")
        try:
            read_mapping(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        self.audit.append(Kind.DATASET_CHANGED, actor=self.by, details={"dataset": name})

    def refresh(self, name: str) -> SnapshotRecord:
        """Reads the source anew, without those who opted out, and erases snapshots past their retention."""
        connector = self._connector(name)
        now = datetime.fromtimestamp(self.clock.now(), UTC)
        path = self.folder.dataset(name) / "snapshots" / now.strftime("%Y%m%dT%H%M%S.%fZ")
        made = connector.refresh(path, clock=self.clock)
        record = SnapshotRecord(
            path=made.path, sha256=made.sha256, rows=made.rows, patients=made.patients, created=made.created, opted_out=made.opted_out
        )
        details: dict[str, Json] = {"dataset": name, "sha256": made.sha256, "rows": made.rows, "patients": made.patients, "opted_out": made.opted_out}
        self.audit.append(Kind.SNAPSHOT_MADE, actor=self.by, details=details)
        snapshots.keep_record(record)
        for gone in snapshots.erase_old(self.folder, name, self.retention, self.clock.now()):
            self.audit.append(Kind.SNAPSHOT_REMOVED, actor=self.by, details={"dataset": name, "sha256": gone.sha256})
        return record

    def describe(self, name: str) -> DataDescription:
        """For the site's own eyes."""
        return describe_locally(self._table(name))

    def describe_for_others(self, name: str) -> DataDescription:
        """What `publish` lets the consortium see, by the smallest count that this site tells."""
        return describe(self._table(name), minimum_cell=read_settings(self.folder.settings).disclosure.minimum_cell)

    def publish(self, name: str, digest: str) -> bool:
        """Lets the consortium see the disclosure-controlled description: the agent tells the coordinator, in the name of the person.

        ``digest``: of the description that the person has looked at. Whether an agent runs, which tells it as soon as it reaches the coordinator;
        otherwise it does when it starts. Raises Conflict where the description is another by now.
        """
        description = self.describe_for_others(name)
        if description.digest != digest:
            told = (
                "Nothing was published: this is not what would be published now. The data, or the settings, have changed since somebody looked at it."
            )
            raise Conflict(told, remedy="Look again at what would be published, then publish that.")
        columns = [column.model_dump(exclude={"quantiles"}) for column in description.columns]
        said = {"rows": description.rows, "patients": description.patients, "columns": columns}
        try:
            published = DataPublished.model_validate(publishing.by_now(self.folder, self.clock, name, self.by) | said)
        except ValidationError as error:
            raise BadInput(say("This description cannot be published:\n{error}", error=faults_of(error))) from None
        return publishing.let_know(self.folder, self.audit, published)

    def take_back(self, name: str) -> bool:
        """The consortium sees the description no longer once the agent has told the coordinator: also while everything is frozen.

        Whether an agent runs. Raises Conflict where nothing is published.
        """
        return publishing.take_back(self.folder, self.audit, self.clock, name, self.by)

    def published(self, name: str) -> DataPublished | None:
        """What the consortium may see of it; None: nothing."""
        return publishing.published(self.folder, name)

    def settings(self, name: str) -> DatasetSettings:
        path = self.folder.dataset(name) / "dataset.toml"
        if not path.is_file():
            known = ", ".join(snapshots.names(self.folder)) or say("none")
            raise NotFound(say("There is no data set '{name}'; there is: {known}.", name=name, known=known))
        return read_toml(path, DatasetSettings)

    def _connector(self, name: str) -> Connector:
        settings = self.settings(name)
        mapping = read_mapping(self.folder.dataset(name) / "mapping.toml")
        opted_out = read_opt_out(settings.opt_out) if settings.opt_out else frozenset[str]()
        key = bytes.fromhex(self.folder.split_key.read_text(encoding="ascii"))
        return make_connector(settings.kind, settings.source, mapping, split_key=key, opted_out=opted_out)

    def _table(self, name: str) -> Any:
        record = snapshots.current(self.folder, name, self.retention, self.clock.now())
        return load_table(record.path, verify=False, sha256=record.sha256)


def suggest_mapping(path: Path, patient: str | None, minimum_cell: int = MINIMUM_CELL) -> str:
    """A mapping for a CSV file as far as the file itself tells it: numbers, and categories of at most 50 different values.

    No category where every value is of fewer than ``minimum_cell`` patients (rows, without ``patient``): those tell who somebody is, as surnames do.
    To be read and completed (units, codes that mean missing) by somebody who knows the data. Raises BadInput.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise BadInput(say("{path} cannot be read as a CSV file in UTF-8.", path=path)) from None
    if patient is not None and patient not in header:
        raise BadInput(say("The file has no column '{patient}'.", patient=patient))
    columns = [name for name in header if name != patient]
    if not columns:
        raise BadInput(say("{path} has no columns.", path=path) if patient is None else say("{path} has no columns but the patient.", path=path))
    probe = DataMapping.model_validate({"columns": {name: {} for name in columns}})
    cells = make_connector("csv", {"path": path}, probe, split_key=bytes(16)).source.cells(header)
    ids = list(range(len(cells[columns[0]]))) if patient is None else texts(cells[patient]).tolist()
    lines = ["# Suggested from the file. Add units (UCUM), and what means missing."]
    if patient is not None:
        lines.append(f"patient = {json.dumps(patient, ensure_ascii=False)}")
    for name in columns:
        lines += _suggest_column(name, cells[name], ids, minimum_cell)
    return "\n".join(lines) + "\n"


def _suggest_column(name: str, cells: Cells, ids: Sequence[object], minimum_cell: int) -> list[str]:
    stripped = texts(cells).tolist()
    values = sorted(set(stripped) - {""})
    title = ["", f"[columns.{json.dumps(name, ensure_ascii=False)}]"]
    if all(_is_number(value) for value in values):
        return [*title, 'kind = "number"']
    if len(values) > MOST_CATEGORIES:
        return ["", f"# left out: {name} has {len(values)} different values that are no numbers"]
    having: dict[str, set[object]] = {value: set() for value in values}
    for value, patient in zip(stripped, ids, strict=True):
        having.get(value, set()).add(patient)
    if all(len(patients) < minimum_cell for patients in having.values()):
        return ["", f"# left out: {name} has {len(values)} different values, each of fewer than {minimum_cell} patients"]
    return [*title, 'kind = "category"', f"categories = {json.dumps(values, ensure_ascii=False)}"]


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _settings_text(settings: DatasetSettings) -> str:
    # JSON's strings and numbers are TOML's as well.
    document = settings.model_dump(mode="json", exclude_none=True)
    source = document.pop("source")
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in document.items()]
    lines += ["", "[source]", *(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in source.items())]
    return "\n".join(lines) + "\n"
