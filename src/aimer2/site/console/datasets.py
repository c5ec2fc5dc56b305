"""The hospital's data sets: what is in them, refreshed from their source, described for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from starlette.responses import Response

from aimer2.core.errors import AimerError, NotFound
from aimer2.site import snapshots
from aimer2.site.console.door import Page, Visit
from aimer2.site.console.work import Piece
from aimer2.site.datasets import Datasets
from aimer2.site.snapshots import SnapshotRecord


@final
@dataclass(frozen=True, slots=True)
class Known:
    """``snapshot``: what studies compute on now; ``work``: the last refresh from here."""

    name: str
    kind: str
    snapshot: SnapshotRecord | None
    work: Piece | None


def datasets_of(visit: Visit) -> Datasets:
    decisions = visit.console.decisions
    return Datasets(decisions.folder, decisions.audit, visit.console.clock, visit.console.settings.retention, visit.person.name)


def _known(visit: Visit, datasets: Datasets, name: str) -> Known:
    kind = datasets.settings(name).kind
    try:
        record = snapshots.current(datasets.folder, name, datasets.retention, visit.console.clock.now())
    except AimerError:
        record = None
    return Known(name, kind, record, visit.console.work.find(f"refresh {name}"))


def show_list(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    known = [_known(visit, datasets, name) for name in snapshots.names(datasets.folder)]
    return visit.page("datasets.html", current="/datasets", datasets=known, can_add=bool(visit.console.settings.console.data_folders))


def show(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    name = checked(visit, datasets)
    known = _known(visit, datasets, name)
    described = datasets.describe(name) if known.snapshot is not None else None
    proposed = datasets.describe_for_others(name) if known.snapshot is not None and visit.person.may("publish") else None
    shown = {"described": described, "proposed": proposed, "published": datasets.published(name)}
    return visit.page("dataset.html", current="/datasets", known=known, **shown)


def refresh(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    name = checked(visit, datasets)
    visit.console.work.begin(f"refresh {name}", lambda tell: datasets.refresh(name), by=visit.person.name)
    return visit.go("/datasets", "begun")


def publish(visit: Visit) -> Response:
    """The consortium may see the description that the page has shown; the person's name stands in the audit log, and beside the description."""
    datasets = datasets_of(visit)
    name = checked(visit, datasets)
    told = datasets.publish(name, visit.field("digest"))
    return visit.go(f"/datasets/{name}", "published" if told else "not-told")


def take_back(visit: Visit) -> Response:
    datasets = datasets_of(visit)
    name = checked(visit, datasets)
    told = datasets.take_back(name)
    return visit.go(f"/datasets/{name}", "taken-back" if told else "not-told")


def checked(visit: Visit, datasets: Datasets) -> str:
    """The name, if there is a data set of it: it becomes a part of paths. Raises NotFound."""
    name = visit.name("name")
    if name not in snapshots.names(datasets.folder):
        raise NotFound("There is no such data set here.")
    return name


PAGES = (
    Page("GET", "/datasets", "see", show_list),
    Page("GET", "/datasets/{name}", "see patients", show),
    Page("POST", "/datasets/{name}/refresh", "refresh", refresh),
    Page("POST", "/datasets/{name}/publish", "publish", publish),
    Page("POST", "/datasets/{name}/take-back", "publish", take_back),
)
