"""`aimer2 sites`: who is enrolled at the coordinator, and who is there."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import minute, rfc3339
from aimer2.identity.keys import PublicKey
from aimer2.messages.told import DataPublished
from aimer2.messages.wire import SiteStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@click.option("--data", "described", metavar="SITE", help="What this site's people have published of its data sets.")
@at_coordinator
def sites(coordinator: Coordinator, as_json: bool, described: str | None) -> None:
    """List the sites of a coordinator, whether they are there, and the protections that each enforces."""
    if described is not None:
        _describe(coordinator.descriptions(described), as_json)
        return
    found = coordinator.sites()
    if as_json:
        click.echo(json.dumps([site.model_dump(mode="json") for site in found], indent=1))
        return
    table = Table("site", "", Column("last contact (UTC)", no_wrap=True, min_width=16), "version", "protections", "key", box=None, pad_edge=False)
    for site in found:
        seen = "never" if site.last_contact is None else minute(site.last_contact)
        version, protections = site.status.get("version", ""), ", ".join(map(str, site.status.get("protections") or []))
        told = (Text(printable(str(text))) for text in (version, protections))
        table.add_row(site.site, _state(site), seen, *told, PublicKey.from_text(site.key).fingerprint)
    Console().print(table if found else "No site has enrolled yet.")


def _describe(published: Sequence[DataPublished], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in published], indent=1, ensure_ascii=False))
        return
    for one in published:
        title = f"{printable(one.dataset)}: {one.patients} patients, {one.rows} rows; published by {printable(one.by)}, {rfc3339(int(one.time))}"
        table = Table("column", "kind", "unit", "patients without", "patients by category", box=None, pad_edge=False, title=Text(title))
        for column in one.columns:
            counts = ", ".join(f"{label} {count}" for label, count in column.categories.items()) or column.form
            table.add_row(*(Text(printable(text)) for text in (column.name, column.kind, column.unit or "", column.missing, counts)))
        Console().print(table)
    if not published:
        click.echo("This site has published nothing of its data.")


def _state(site: SiteStatus) -> Text:
    if site.revoked:
        return Text("revoked", "red")
    return Text("online", "green") if site.online else Text("offline", "yellow")
