"""The console's application: every page with who may ask for it. Nothing answers to a name that is not its own, or while the folder is older than
its audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from aimer2.site.console import budgets, datasets, keys, machine, new_datasets, people, records, requests, results
from aimer2.site.console.console import Console
from aimer2.site.console.door import KnownHosts, Page, WholeFolder, opened
from aimer2.site.console.entrance import entrance
from aimer2.web.answers import Protected

PAGES: Final[Sequence[Page]] = (
    *requests.PAGES,
    # Before the page of a data set: none may bear the name `new`.
    *new_datasets.PAGES,
    *datasets.PAGES,
    *budgets.PAGES,
    *results.PAGES,
    *keys.PAGES,
    *records.PAGES,
    *machine.PAGES,
    *people.PAGES,
)


def build_app(console: Console) -> ASGIApp:
    by_path: dict[str, list[Page]] = {}
    for page in PAGES:
        by_path.setdefault(page.path, []).append(page)
    routes = [Route(path, opened(console, pages), methods=[page.method for page in pages]) for path, pages in by_path.items()]
    handlers = console.answers.exception_handlers()
    app = Starlette(routes=[*console.answers.routes(), *entrance(console), *routes], exception_handlers=dict(handlers))
    return Protected(KnownHosts(WholeFolder(app, console), console.place.hosts))
