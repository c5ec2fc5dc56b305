"""The `aimer2` command: its sub-commands, loaded when called for, and how it ends.

Exit statuses:

0    done
1    it failed (any error that is not named below)
2    what was handed in is not usable: an option, a study, a data set
3    not logged in, or not allowed
4    there is no such thing, or it contradicts what is recorded (bytes that were tampered with, too)
5    the other side did not answer
130  interrupted from the keyboard
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from aimer2 import __version__
from aimer2.core.errors import AimerError, BadInput, Conflict, NotAllowed, NotAuthenticated, NotAvailable, NotFound, Unreachable

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("aimer2.cli.demo:demo", "Run a whole federated study on this machine."),
    "study": ("aimer2.cli.study:study", "Write, check, submit and follow studies."),
    "model": ("aimer2.cli.model:model", "Use, compare, check and hand on what studies have left."),
    "simulate": ("aimer2.cli.simulate:simulate", "Run a study over files on this machine, without a network."),
    "statistics": ("aimer2.cli.statistics:statistics", "Ask a statistical question, of hospitals or of files."),
    "login": ("aimer2.cli.login:login", "Log in at a coordinator."),
    "logout": ("aimer2.cli.login:logout", "Forget a log-in."),
    "consortium": ("aimer2.cli.consortium:consortium", "Members, invitations and agreements of the consortium."),
    "token": ("aimer2.cli.token:token", "Tokens for scripts, which stand in for your log-in."),
    "sites": ("aimer2.cli.sites:sites", "List the sites of a coordinator and whether they are there."),
    "site": ("aimer2.cli.site:site", "Take part as a hospital: your data, your decisions, your agent."),
    "coordinator": ("aimer2.cli.coordinator:coordinator", "Run the coordinator that offers studies and conducts them."),
    "audit": ("aimer2.cli.audit:audit", "Take and verify audit logs, offline."),
}
"""Each command: where it is, and its line in `aimer2 --help`, which loads none of them."""

_STATUSES: Sequence[tuple[tuple[type[AimerError], ...], int]] = (
    ((BadInput,), 2),
    ((NotAuthenticated, NotAllowed), 3),
    ((NotFound, Conflict), 4),
    ((Unreachable,), 5),
)
_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "aimer2").startswith("aimer2"):
                raise
            remedy = f"Install what the command needs: pip install 'aimer2[{cmd_name}]'" if cmd_name == "demo" else f"Install {error.name}."
            raise NotAvailable(f"`aimer2 {cmd_name}` needs {error.name}, which is not installed here.", remedy=remedy) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aimer2")
def aimer2() -> None:
    """Federated learning for medical research: no patient record leaves a hospital."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and ends the process with its status."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = aimer2.main(arguments, prog_name="aimer2", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return _INTERRUPTED
    except AimerError as error:
        _debug()
        click.echo(f"{error.sentence}\n{error.advice} [{error.code}]", err=True)
        return status_of(error)
    except Exception as error:  # noqa: BLE001 - the edge of the process
        if not _debug():
            click.echo(f"An unexpected error: {type(error).__name__}. With AIMER2_DEBUG=1 in the environment you get the traceback.", err=True)
        return 1


def status_of(error: AimerError) -> int:
    """The exit status for an error."""
    return next((status for kinds, status in _STATUSES if isinstance(error, kinds)), 1)


def _debug() -> bool:
    """Prints the traceback where it was asked for. An exception's text may quote a record, so it is never shown unasked."""
    asked = os.environ.get("AIMER2_DEBUG") == "1"
    if asked:
        traceback.print_exc()
    return asked
