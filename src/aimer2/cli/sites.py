"""`aimer2 sites`: who is enrolled at the coordinator, and who is there."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aimer2.cli.login import at_coordinator
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339
from aimer2.identity.keys import PublicKey
from aimer2.messages.wire import SiteStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@at_coordinator
def sites(coordinator: Coordinator, as_json: bool) -> None:
    """List the sites of a coordinator, whether they are there, and the protections that each enforces."""
    found = coordinator.sites()
    if as_json:
        click.echo(json.dumps([site.model_dump(mode="json") for site in found], indent=1))
        return
    table = Table("site", "", "last contact", "version", "protections", "key", box=None, pad_edge=False)
    for site in found:
        seen = "never" if site.last_contact is None else rfc3339(int(site.last_contact))
        version, protections = site.status.get("version", ""), ", ".join(map(str, site.status.get("protections") or []))
        told = (Text(printable(str(text))) for text in (version, protections))
        table.add_row(site.site, _state(site), seen, *told, PublicKey.from_text(site.key).fingerprint)
    Console().print(table if found else "No site has enrolled yet.")


def _state(site: SiteStatus) -> Text:
    if site.revoked:
        return Text("revoked", "red")
    return Text("online", "green") if site.online else Text("offline", "yellow")
