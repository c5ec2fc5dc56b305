"""`aimer2 audit`: verify an audit log with nothing but the file and the public key."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from aimer2.audit.entries import Head
from aimer2.audit.verify import Verification
from aimer2.audit.verify import verify as verify_log
from aimer2.client.figures import printable
from aimer2.core.errors import BadInput, Tampered
from aimer2.identity.keys import PublicKey, SigningKey


@click.group("audit")
def audit() -> None:
    """Verify an audit log, offline."""


@audit.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key", "keys", multiple=True, required=True, help="The public key, as text or a file that holds it. After a rotation: all, oldest first."
)
@click.option("--anchor", metavar="SEQ:DIGEST", help="A last entry that was written down elsewhere: finds a log that was cut off or written anew.")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def verify(file: Path, keys: Sequence[str], anchor: str | None, as_json: bool) -> None:
    """Check every entry of an audit log: its signature, its number, its chain to the one before. Status 4 where something is wrong."""
    found = verify_log(file, [_key(text) for text in keys], anchor=None if anchor is None else _anchor(anchor))
    if as_json:
        click.echo(json.dumps(_document(found), indent=1))
    else:
        for problem in found.problems:
            click.echo(f"line {problem.line}: {problem.sentence} [{problem.code}]" if problem.line else f"{problem.sentence} [{problem.code}]")
    if not found.intact:
        raise Tampered(f"{file} is not intact: {found.found} problems.", remedy="Keep the file as it is, and compare it with a backup.")
    if not as_json:
        _say(found, anchored=anchor is not None)


def _document(found: Verification) -> dict[str, object]:
    return {"intact": found.intact, "entries": found.entries, "head": asdict(found.head), "problems": [asdict(problem) for problem in found.problems]}


def _say(found: Verification, *, anchored: bool) -> None:
    if found.first is None or found.last is None:
        click.echo("The log is intact, and empty.")
        return
    click.echo(f"The log is intact: {found.entries} entries from {printable(found.first.time)} to {printable(found.last.time)}.")
    click.echo(f"Its head is {found.head.sequence}:{found.head.digest}")
    if not anchored:
        click.echo("Without --anchor nobody can tell whether newest entries were cut off. Write the head down elsewhere for the next time.")


def _key(given: str) -> PublicKey:
    """The key that the text spells, or that the file holds: as text, or the private key that it belongs to."""
    path = Path(given)
    if not path.is_file():
        return PublicKey.from_text(given)
    content = path.read_bytes()
    if content.startswith(b"-----BEGIN"):
        return SigningKey.load(path).public
    return PublicKey.from_text(content.decode(errors="replace").strip())


def _anchor(text: str) -> Head:
    if not re.fullmatch(r"\d{1,18}:[0-9a-f]{64}", text):
        raise BadInput(f"--anchor {text}: give the number of an entry and its SHA-256, as `aimer2 audit verify` prints them.")
    sequence, _, digest = text.partition(":")
    return Head(int(sequence), digest)
