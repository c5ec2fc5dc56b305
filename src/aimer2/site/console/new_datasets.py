"""A new data set, of a file under the folders that the settings name; and what the columns of one mean, to be completed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from aimer2.connectors.catalogue import kind_of, make_source
from aimer2.connectors.mapping import parse_mapping
from aimer2.core.errors import AimerError, BadInput
from aimer2.core.said import say
from aimer2.core.study import faults_of
from aimer2.site.console.datasets import checked, datasets_of
from aimer2.site.console.door import Page, Visit
from aimer2.site.datasets import DatasetSettings, suggest_mapping

FIELDS = ("name", "path", "patient", "delimiter", "image_folder", "parts", "opt_out", "mapping")
_ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".npz")
_MOST_SHOWN = 300
_MOST_LOOKED_AT = 20_000
"""Files and folders under each folder: a page does not walk through millions of images."""
_NO_SUGGESTION = '\n[columns."COLUMN"]\nkind = "number"\n# unit = "a"\n'


def show(visit: Visit) -> Response:
    return _page(visit, dict.fromkeys(FIELDS, ""))


def _page(visit: Visit, given: Mapping[str, str], problem: AimerError | None = None, *, suggested: bool = False) -> Response:
    """``suggested``: the mapping was made from the file, and is to be read and completed now."""
    folders = visit.console.settings.console.data_folders
    files = list(islice(files_under(folders), _MOST_SHOWN))
    status = 200 if problem is None else problem.status
    shown = {"given": given, "folders": folders, "files": files, "problem": problem, "suggested": suggested}
    return visit.page("new_dataset.html", current="/datasets", status=status, **shown)


def files_under(folders: Sequence[Path], most: int = _MOST_LOOKED_AT) -> Iterator[str]:
    """Those that may become data sets, in order, of the first ``most`` names under each folder. A path may be typed of any other."""
    for folder in folders:
        looked_at = islice(((place, name) for place, inner, names in os.walk(folder) for name in (*names, *inner)), most)
        yield from sorted(os.path.join(place, name) for place, name in looked_at if Path(name).suffix.lower() in _ENDINGS)


def add(visit: Visit) -> Response:
    """The first time with a suggested mapping, shown to be read; with a mapping it becomes a data set, and its first snapshot is begun."""
    given = {name: visit.field(name) for name in FIELDS}
    given["mapping"] = given["mapping"].replace("\r\n", "\n")
    datasets = datasets_of(visit)
    try:
        settings = _settings(visit, given)
        if not given["mapping"]:
            return _page(visit, given | {"mapping": _suggested(visit, settings, given)}, suggested=True)
        _check_patient(given)
        datasets.add(settings, given["mapping"] + "\n")
    except AimerError as error:
        return _page(visit, given, error)
    visit.console.work.begin(f"refresh {settings.name}", lambda tell: datasets.refresh(settings.name), by=visit.person.name)
    return visit.go("/datasets", "begun")


def _suggested(visit: Visit, settings: DatasetSettings, given: Mapping[str, str]) -> str:
    if settings.kind == "csv" and not given["delimiter"]:
        return suggest_mapping(Path(str(settings.source["path"])), given["patient"] or None, visit.console.settings.disclosure.minimum_cell)
    line = f"patient = {json.dumps(given['patient'], ensure_ascii=False)}" if given["patient"] else '# patient = "COLUMN"'
    return f"{line}\n{_NO_SUGGESTION}"


def _check_patient(given: Mapping[str, str]) -> None:
    """Raises BadInput where the form says otherwise than its mapping which rows are of one patient: a visit must not count as a patient."""
    named = parse_mapping(given["mapping"], "The mapping").patient
    if given["patient"] and given["patient"] != named:
        said = say("names no patient column") if named is None else say("names {column}", column=f"{named!r}")
        line = f"patient = {json.dumps(given['patient'], ensure_ascii=False)}"
        raise BadInput(
            say("The form names {given} as the column with the patient's id, but the mapping {said}.", given=f"{given['patient']!r}", said=said),
            remedy=say("Write {line} as the first line of the mapping, or empty that field.", line=line),
        )


def _settings(visit: Visit, given: Mapping[str, str]) -> DatasetSettings:
    """Raises BadInput for what a form may get wrong, and for a file elsewhere."""
    if given["name"] == "new":
        raise BadInput("No data set may be called 'new' here.", remedy="Choose another name.")
    path = _allowed(visit, given["path"])
    kind = kind_of(path, images=bool(given["image_folder"]))
    source: dict[str, Any] = {"path": str(path)}
    if given["image_folder"]:
        source["folder"] = str(_allowed(visit, given["image_folder"]))
    if given["delimiter"]:
        source["delimiter"] = json.loads('"\\t"') if given["delimiter"] == "tab" else given["delimiter"]
    if given["parts"]:
        source["parts"] = [part.strip() for part in given["parts"].split(",")]
    make_source(kind, source)
    opt_out = _allowed(visit, given["opt_out"]) if given["opt_out"] else None
    try:
        return DatasetSettings(name=given["name"], kind=kind, source=source, opt_out=opt_out)
    except ValidationError as error:
        raise BadInput("; ".join(str(fault) for fault in faults_of(error))) from None


def _allowed(visit: Visit, text: str) -> Path:
    """Where the path leads in the end: to something that is there, under one of the folders. Raises BadInput."""
    folders = [folder.resolve() for folder in visit.console.settings.console.data_folders]
    path = Path(text)
    try:
        found = path.resolve() if path.is_absolute() and "\0" not in text else None
        # A pipe would be waited for.
        there = found is not None and (found.is_file() or found.is_dir())
    except (OSError, RuntimeError):
        raise BadInput("There is no such file.", remedy="Choose one of the list, or type its whole path.") from None
    if found is None or not any(found.is_relative_to(folder) for folder in folders):
        named = ", ".join(map(str, folders)) or say("none")
        raise BadInput("That lies elsewhere than where data sets may come from here.", remedy=say("Choose a file under: {named}.", named=named))
    if not there:
        raise BadInput("There is no such file.", remedy="Choose one of the list, or type its whole path.")
    return found


def show_mapping(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    name = checked(visit, datasets)
    return visit.page("mapping.html", current="/datasets", name=name, mapping=datasets.mapping(name), problem=None, status=200)


def keep_mapping(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    name, text = checked(visit, datasets), visit.field("mapping").replace("\r\n", "\n") + "\n"
    try:
        datasets.change(name, text)
    except BadInput as error:
        return visit.page("mapping.html", current="/datasets", name=name, mapping=text, problem=error, status=error.status)
    return visit.go(f"/datasets/{name}", "mapping-kept")


PAGES = (
    Page("GET", "/datasets/new", "add data sets", show),
    Page("POST", "/datasets/new", "add data sets", add),
    Page("GET", "/datasets/{name}/mapping", "add data sets", show_mapping),
    Page("POST", "/datasets/{name}/mapping", "add data sets", keep_mapping),
)
