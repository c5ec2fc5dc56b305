"""What the sites have found in a preflight, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from aimer2.client.figures import printable


def side_by_side(rehearsal: Mapping[str, Any]) -> Table:
    """A line per check, a column per site; what did not pass with its finding. A site that gave none says why in the first line."""
    sites = rehearsal["sites"]
    table = Table("check", *(site["site"] for site in sites))
    if any(site["outcome"] != "answer" for site in sites):
        table.add_row("", *map(_outcome, sites))
    by_site = [{check["name"]: check for check in site["checks"]} for site in sites]
    for name in dict.fromkeys(name for checks in by_site for name in checks):
        table.add_row(Text(printable(name)), *(_finding(checks.get(name)) for checks in by_site))
    return table


def blocked(rehearsal: Mapping[str, Any]) -> bool:
    """Whether some site could not take part as it is."""
    return any(site["outcome"] != "answer" or any(_blocks(check) for check in site["checks"]) for site in rehearsal["sites"])


def _outcome(site: Mapping[str, Any]) -> Text:
    texts = {"answer": "", "silent": "did not answer", "refusal": f"refused: {site['reason']}", "failure": f"failed: {site['reason']}"}
    return Text(printable(texts[site["outcome"]]), "red")


def _finding(check: Mapping[str, Any] | None) -> Text:
    if check is None:
        return Text("not checked", "dim")
    if check["passed"]:
        return Text("✓", "green")
    mark, colour = ("✗", "red") if _blocks(check) else ("!", "yellow")
    return Text(f"{mark} {printable(check['finding'])}", colour)


def _blocks(check: Mapping[str, Any]) -> bool:
    return bool(check["blocking"] and not check["passed"])
