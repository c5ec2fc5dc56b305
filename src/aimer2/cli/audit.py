"""`aimer2 audit`: verify an audit log with nothing but the file and the public key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from aimer2.audit.entries import Head
from aimer2.audit.verify import Verification
from aimer2.audit.verify import verify as verify_log
from aimer2.audit.witness import Comparison, compare, signers
from aimer2.cli.partly_lazy import PartlyLazy
from aimer2.client.figures import printable
from aimer2.core.errors import BadInput, Tampered
from aimer2.identity.keys import PublicKey, SigningKey


@click.group("audit", cls=PartlyLazy, lazy={"export": "aimer2.cli.audit_export:export"})
def audit() -> None:
    """Take and verify audit logs, offline."""


@audit.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    help="A public key, as text or a file that holds it: of every log. After a rotation: all of them, oldest first.",
)
@click.option("--anchor", metavar="SEQ:DIGEST", help="A last entry that was written down elsewhere: finds a log that was cut off or written anew.")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def verify(files: Sequence[Path], keys: Sequence[str], anchor: str | None, as_json: bool) -> None:
    """Check every entry of an audit log: its signature, its number, its chain to the one before. Status 4 where something is wrong.

    Several logs, of the coordinator and of sites, are also checked against each other: each holds signed heads of the others, so none of them
    can have been cut off or written anew unseen since. Told is the first line where two of them disagree.
    """
    if anchor is not None and len(files) > 1:
        raise BadInput("--anchor is for one log; several are anchors to each other.")
    given = [_key(text) for text in keys]
    signed_by = {file: (signers(file, given) or given) if len(files) > 1 else given for file in files}
    found = {file: verify_log(file, signed_by[file], anchor=None if anchor is None else _anchor(anchor)) for file in files}
    compared = compare(signed_by) if len(files) > 1 else Comparison(0, ())
    if as_json:
        document = _document(found[files[0]]) if len(files) == 1 else _together(found, compared)
        click.echo(json.dumps(document, indent=1))
    else:
        _tell(found, compared)
    wrong = sum(one.found for one in found.values()) + len(compared.disagreements)
    if wrong:
        named = ", ".join(map(str, files))
        raise Tampered(f"{named}: not intact, {wrong} problems.", remedy="Keep the files as they are, and compare them with backups.")
    if not as_json:
        for file, one in found.items():
            _say(file if len(files) > 1 else None, one, anchored=anchor is not None or compared.heads > 0)
        if len(files) > 1:
            click.echo(f"{compared.heads} signed heads were compared: the logs agree." if compared.heads else "None of them holds a head of another.")


def _tell(found: Mapping[Path, Verification], compared: Comparison) -> None:
    for file, one in found.items():
        name = f"{file}: " if len(found) > 1 else ""
        for problem in one.problems:
            place = f"line {problem.line}: " if problem.line else ""
            click.echo(f"{name}{place}{problem.sentence} [{problem.code}]")
    for disagreement in compared.disagreements:
        click.echo(f"{disagreement.sentence}. [disagree]")


def _together(found: Mapping[Path, Verification], compared: Comparison) -> dict[str, object]:
    told = [{key: str(value) if isinstance(value, Path) else value for key, value in asdict(one).items()} for one in compared.disagreements]
    intact = not told and all(one.intact for one in found.values())
    return {"intact": intact, "logs": {str(file): _document(one) for file, one in found.items()}, "heads": compared.heads, "disagreements": told}


def _document(found: Verification) -> dict[str, object]:
    return {"intact": found.intact, "entries": found.entries, "head": asdict(found.head), "problems": [asdict(problem) for problem in found.problems]}


def _say(file: Path | None, found: Verification, *, anchored: bool) -> None:
    name = "The log" if file is None else str(file)
    if found.first is None or found.last is None:
        click.echo(f"{name} is intact, and empty.")
        return
    click.echo(f"{name} is intact: {found.entries} entries from {printable(found.first.time)} to {printable(found.last.time)}.")
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
