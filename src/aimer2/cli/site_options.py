"""What the commands of `aimer2 site` have in common: its folder, the person who decides, its state."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aimer2.core.clock import SystemClock
from aimer2.site import decisions
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder

CLOCK = SystemClock()
SHOWN = 12
"""So many characters of a digest are shown."""

Command = TypeVar("Command", bound=Callable[..., Any])


def in_folder(command: Command) -> Command:
    kind = click.Path(path_type=Path, file_okay=False)
    return click.option("--folder", type=kind, help="The site's folder.  [default: AIMER2_SITE, or ./site]")(command)


def by_person(command: Command) -> Command:
    return click.option("--by", required=True, help="Your name: the person who decides this.")(command)


def open_decisions(folder: SiteFolder) -> Decisions:
    return decisions.open_decisions(folder, CLOCK)


def account() -> str:
    """The name of the account that gives the command."""
    try:
        return getpass.getuser()
    except OSError:
        return "unknown"
