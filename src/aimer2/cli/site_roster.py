"""`aimer2 site roster`: whose key this hospital has verified, itself and without the coordinator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import click

from aimer2.cli.site_options import SHOWN, by_person, in_folder, open_decisions
from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadInput, NotFound
from aimer2.identity.keys import PublicKey
from aimer2.messages.package import Package
from aimer2.site.address_book import AddressBook, Entry, how_to_verify, signer_of
from aimer2.site.folder import existing

_FILE = click.Path(path_type=Path, dir_okay=False)
_LONGEST_STATEMENT = 1 << 20


@click.group()
def roster() -> None:
    """Whose key this site has verified: what secure aggregation rests on."""


@roster.command()
@click.argument("study", required=False)
@in_folder
def show(study: str | None, folder: Path | None) -> None:
    """This site's fingerprint, and whom it has verified.

    With STUDY (the beginning of its digest): each member's key, and whether it is verified here.
    """
    decisions = open_decisions(existing(folder))
    book = decisions.address_book
    if study is None:
        _show_book(book)
        return
    known = decisions.find(study)
    if known.package is None:
        raise NotFound("The study has not been fetched yet.", remedy="Let the agent run: `aimer2 site run`.")
    _show_study(book, known.digest, known.package)


def _show_book(book: AddressBook) -> None:
    width = _width([book.site, *book.entries()])
    click.echo(f"{book.site:{width}}  {book.key.public.fingerprint}  this site: read it out to a hospital that calls")
    for entry in book.entries().values():
        click.echo(f"{entry.site:{width}}  {_fingerprint(entry.key)}  {_verified(entry)}")
    if not book.entries():
        click.echo("No other site's key is verified here yet.")


def _show_study(book: AddressBook, digest: str, package: Package) -> None:
    entries, width = book.entries(), _width(package.roster)
    click.echo(f"{package.study.name}, {digest[:SHOWN]}: {len(package.roster)} sites")
    for site, key in sorted(package.roster.items()):
        click.echo(f"{site:{width}}  {_fingerprint(key)}  {_standing(book, site, key, entries.get(site))}")
    missing = book.unverified(package.roster)
    if not package.study.privacy.secure_aggregation:
        click.echo("The study has no secure aggregation: it can be approved whether or not these keys are verified.")
    elif missing:
        click.echo(f"\n{len(missing)} of {len(package.roster)} keys are not verified: this site cannot approve the study, and takes no part in it.")
        click.echo(how_to_verify(book.site, missing, "NAME"))
    else:
        click.echo("Every key is verified here: the study's secure aggregation rests on them, and not on the coordinator's word.")


def _standing(book: AddressBook, site: str, key: str, entry: Entry | None) -> str:
    match book.standing(site, key):
        case "own":
            return "this site"
        case "verified" if entry is not None:
            return _verified(entry)
        case "changed" if entry is not None:
            return click.style(f"CHANGED: not the key that was {_verified(entry)}", fg="red", bold=True)
        case "changed":
            return click.style("CHANGED: not this site's key", fg="red", bold=True)
    return click.style("NOT VERIFIED", fg="yellow", bold=True)


@roster.command()
@click.argument("site")
@click.argument("fingerprint", nargs=-1)
@click.option("--how", type=click.Choice(["telephone", "in-person"]), default="telephone", show_default=True, help="How you were told.")
@click.option("--statement", type=_FILE, help="Take over what SITE says, in this file, that it has verified.")
@by_person
@in_folder
def verify(
    site: str, fingerprint: tuple[str, ...], how: Literal["telephone", "in-person"], statement: Path | None, by: str, folder: Path | None
) -> None:
    """Compare SITE's key with the fingerprint that it told you.

    The key is the one that the coordinator gave with a study. FINGERPRINT is what somebody at SITE has read out to you: 40 digits, in any groups.

    With --statement instead, what SITE says that it has verified is taken over; for that its own key must be verified here. With both, its own
    key is taken from the statement and compared first: so two sites can meet before any study.
    """
    decisions = open_decisions(existing(folder))
    book = decisions.address_book
    if not fingerprint and statement is None:
        raise BadInput("Give the fingerprint that you were told, or a --statement.")
    text = "" if statement is None else _read(statement)
    if fingerprint:
        given = [signer_of(text, site)] if text else decisions.keys_given(site)
        before = book.entries().get(site)
        _say([book.verify(site, " ".join(fingerprint), given, by=by, how=how)], before)
    if text:
        taken = book.take(text, site, by=by)
        _say(taken, None)
        if not taken:
            click.echo(f"The statement of '{site}' holds, and names no key that is new here.")


def _say(entries: list[Entry], before: Entry | None) -> None:
    for entry in entries:
        replaced = before is not None and before.key != entry.key
        click.echo(f"{entry.site}  {_fingerprint(entry.key)}  {_verified(entry)}{'; it replaces another key' if replaced else ''}")


@roster.command()
@click.option("--out", type=_FILE, required=True, help="Write to this new file.")
@by_person
@in_folder
def sign(out: Path, by: str, folder: Path | None) -> None:
    """Sign what was verified here, for other sites to take over.

    The statement holds this site's own key and those that were verified here directly, not those taken over from another site.
    """
    book = open_decisions(existing(folder)).address_book
    try:
        with out.open("x", encoding="ascii") as file:
            file.write(book.sign(by=by) + "\n")
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror}.", remedy="Name a new file.") from None
    click.echo(f"Written to {out}. Who takes it over compares this site's fingerprint with you first: {book.key.public.fingerprint}")


@roster.command()
@click.argument("site")
@click.option("--reason", required=True, help="For the audit log of this site.")
@by_person
@in_folder
def remove(site: str, reason: str, by: str, folder: Path | None) -> None:
    """Let a site's key count no longer.

    Nor do the keys that were taken over from it. From then on this site sets up no keys for secure aggregation with any of them.
    """
    gone = open_decisions(existing(folder)).address_book.remove(site, by=by, reason=reason)
    click.echo(f"No longer verified here: {', '.join(gone)}")


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_LONGEST_STATEMENT).strip()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path} cannot be read, or is no statement of `aimer2 site roster sign`.") from None


def _verified(entry: Entry) -> str:
    way = {"telephone": "by telephone", "in-person": "in person"}.get(entry.how, f"through a statement of '{entry.through}'")
    return f"verified by {entry.by}, {way}, {rfc3339(entry.time)[:10]}"


def _fingerprint(key: str | None) -> str:
    try:
        return PublicKey.from_text(key or "").fingerprint
    except BadInput:
        return f"{'no key':47}"


def _width(sites: Iterable[str]) -> int:
    return max(map(len, sites))
