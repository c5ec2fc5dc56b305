"""`aimer2 site`: everything that a hospital does."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Column, Table

from aimer2.audit.verify import verify
from aimer2.cli.collector import collect_rarely
from aimer2.cli.partly_lazy import PartlyLazy
from aimer2.cli.site_options import CLOCK, SHOWN, by_person, in_folder, open_decisions
from aimer2.client.figures import printable
from aimer2.core.clock import rfc3339
from aimer2.core.errors import NotFound, Tampered
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import SigningKey
from aimer2.site import bundle as bundles
from aimer2.site.agent import Agent
from aimer2.site.approval import stands, valid_until
from aimer2.site.control import ask_agent
from aimer2.site.decisions import Decisions, Word, decide
from aimer2.site.description import describe_request
from aimer2.site.doctor import examine
from aimer2.site.enrolment import known_keys, make_site, rotate_key
from aimer2.site.folder import SiteFolder, existing, locate
from aimer2.site.reports import write_report
from aimer2.site.sandbox import die_with_parent
from aimer2.site.settings import read_settings
from aimer2.site.store import KnownStudy
from aimer2.site.versions import code_of, describe_change

_GROUPS = {
    "budget": "aimer2.cli.site_budget:budget",
    "console": "aimer2.cli.site_console:console",
    "dataset": "aimer2.cli.site_dataset:dataset",
    "freeze": "aimer2.cli.site_freeze:freeze",
    "model": "aimer2.cli.site_model:model",
    "preflight": "aimer2.cli.site_preflight:preflight",
    "recover": "aimer2.cli.site_recover:recover",
    "rehearse": "aimer2.cli.site_rehearse:rehearse",
    "roster": "aimer2.cli.site_roster:roster",
    "thaw": "aimer2.cli.site_freeze:thaw",
    "user": "aimer2.cli.site_console:user",
}
_DONE: Mapping[Word, str] = {"approve": "Approved", "refuse": "Refused", "withdraw": "Withdrawn"}
_EXISTING = click.Path(path_type=Path, exists=True, resolve_path=True)


@click.group("site", cls=PartlyLazy, lazy=_GROUPS)
def site() -> None:
    """Take part as a hospital: your data, your decisions, your agent."""


@site.command()
@click.argument("invitation")
@click.option("--site", "name", help="The site's name, where the invitation leaves it open.")
@click.option("--ca-file", type=_EXISTING, help="Your own authority (PEM), where a proxy inspects TLS.")
@in_folder
def init(invitation: str, name: str | None, ca_file: Path | None, folder: Path | None) -> None:
    """Make this site's keys and enrol at the coordinator of an invitation."""
    invited = Invitation.from_text(sys.stdin.read() if invitation == "-" else invitation)
    place = locate(folder)
    settings = make_site(place, invited, name=name, ca_file=ca_file, clock=CLOCK)
    key = SigningKey.load(place.key)
    click.echo(invited.describe())
    click.echo(f"\nEnrolled as '{settings.site}' at '{settings.coordinator.name}'. This site's key: {key.public.fingerprint}")
    click.echo("Compare both keys with the operator by telephone. Next: aimer2 site dataset add, aimer2 site doctor, aimer2 site run")


@site.command()
@in_folder
def doctor(folder: Path | None) -> None:
    """Check everything, and say what to do."""
    table = Table("", "What", "Finding", "What to do", box=None)
    marks = {"good": "[green]✓", "note": "[yellow]![/]", "bad": "[red]✗"}
    bad = 0
    for found in examine(existing(folder), CLOCK):
        table.add_row(marks[found.state], found.subject, found.finding, found.remedy)
        bad += found.state == "bad"
    Console().print(table)
    if bad:
        sys.exit(1)


@site.command()
@in_folder
def requests(folder: Path | None) -> None:
    """The studies that were offered to this site, and where each stands."""
    decisions = open_decisions(existing(folder))
    found = decisions.store.studies()
    for known in found:
        facts = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
        facts.add_row(known.digest[:SHOWN], f"{known.package.study.name} ({known.state})" if known.package else f"({known.state}, not fetched yet)")
        for name, text in _asked(known):
            facts.add_row(f"  {name}", text)
        if standing := _here(decisions, known):
            facts.add_row("  here", standing)
        Console(markup=False).print(facts, "")
    if not found:
        click.echo("No study was offered to this site yet.")


def _asked(known: KnownStudy) -> Sequence[tuple[str, str]]:
    if known.package is None:
        return ()
    study = known.package.study
    asked = (("asks", study.question), ("asked by", study.principal_investigator), ("ethics", study.ethics))
    return [(name, printable(text)) for name, text in (*asked, ("expires", rfc3339(int(study.expires_at))[:10]))]


def _here(decisions: Decisions, known: KnownStudy) -> str:
    decision = decisions.store.decision(known.digest)
    if decision is None or known.package is None:
        return f"waits for a decision{_missing_keys(decisions, known)}" if known.state in ("offered", "running", "paused") else ""
    if (why := stands(decision, known.package, decisions.clock.now())) is not None:
        return why
    return f"approved by {decision.by} until {rfc3339(valid_until(decision, known.package))}{_missing_keys(decisions, known)}"


def _missing_keys(decisions: Decisions, known: KnownStudy) -> str:
    if known.package is None or not known.package.study.privacy.secure_aggregation:
        return ""
    missing = decisions.address_book.unverified(known.package.roster)
    return f"; keys not verified: {', '.join(missing)} (aimer2 site roster show {known.digest[:SHOWN]})" if missing else ""


@site.command()
@click.argument("digest")
@in_folder
def show(digest: str, folder: Path | None) -> None:
    """What a study asks, reads, runs and sends; its code in full."""
    decisions = open_decisions(existing(folder))
    known = decisions.find(digest)
    if known.package is None:
        raise NotFound("The study has not been fetched yet.", remedy="Let the agent run: `aimer2 site run`.")
    code = code_of(decisions, known.digest, known.package)
    click.echo("\n".join([*describe_change(decisions, known.package, code), *describe_request(known.package, known.digest, code)]))
    click.echo(f"Here             {_here(decisions, known)}")


@site.command()
@click.argument("digest")
@by_person
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day of the approval.  [default: as long as the study]")
@click.option("--dataset", "dataset_name", help="Which data set, where it bears another name here.")
@in_folder
def approve(digest: str, by: str, until: datetime | None, dataset_name: str | None, folder: Path | None) -> None:
    """Approve this exact study."""
    moment = None if until is None else (until.replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
    _decide(existing(folder), "approve", study=digest, by=by, until=moment, dataset=dataset_name)


@site.command()
@click.argument("digest")
@by_person
@click.option("--reason", required=True, help="Told to the researcher.")
@in_folder
def refuse(digest: str, by: str, reason: str, folder: Path | None) -> None:
    """Refuse a study."""
    _decide(existing(folder), "refuse", study=digest, by=by, reason=reason)


@site.command()
@click.argument("digest")
@by_person
@click.option("--reason", default="", help="Told to the researcher.")
@in_folder
def withdraw(digest: str, by: str, reason: str, folder: Path | None) -> None:
    """Leave a study, at once: its worker is killed, what was not sent is erased."""
    _decide(existing(folder), "withdraw", study=digest, by=by, reason=reason)


def _decide(folder: SiteFolder, word: Word, *, study: str, by: str, **given: Any) -> None:
    taken = decide(open_decisions(folder), word, study, by=by, **given)
    if not taken.told:
        click.echo("The agent does not run: this is in force here, and will be sent when it starts.")
    click.echo(f"{_DONE[word]}: {taken.decision.study[:SHOWN]}, by {taken.decision.by}")


@site.command()
@click.option("--parent", type=int, hidden=True, help="End as soon as this process has ended, which started this one.")
@in_folder
def run(folder: Path | None, parent: int | None) -> None:
    """Run this site's agent until it is stopped."""
    if parent is not None:
        die_with_parent(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    place = existing(folder)
    agent = Agent(open_decisions(place), read_settings(place.settings))
    collect_rarely()
    uvloop.run(agent.run())


@site.command()
@in_folder
def status(folder: Path | None) -> None:
    """Whether the agent runs and reaches the coordinator."""
    done = ask_agent(existing(folder), {"command": "status"})
    if done is None:
        raise NotFound("The agent does not run.", remedy="Start it: `aimer2 site run`, or `systemctl start aimer2-site`.")
    click.echo("connected" if done["connected"] else f"runs, but is not connected: {done['problem'] or 'connecting'}")
    if done["halted"]:
        click.echo(f"Nothing runs: {done['halted']}")


@site.command()
@click.argument("digest")
@in_folder
def log(digest: str, folder: Path | None) -> None:
    """What a study's worker has printed. It stays at this site; it may hold patients' values."""
    decisions = open_decisions(existing(folder))
    path = decisions.folder.log(decisions.find(digest).digest)
    if not path.is_file():
        raise NotFound("Nothing of this study has run here.")
    sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))


@site.command()
@click.argument("digest")
@in_folder
def report(digest: str, folder: Path | None) -> None:
    """This site's own report of a study, with its own figures; written anew and signed. It stays at this site."""
    decisions = open_decisions(existing(folder))
    known = decisions.find(digest)
    click.echo(json.dumps(write_report(decisions, known.digest), indent=1))
    click.echo(f"Written to {decisions.folder.report(known.digest)}", err=True)


@site.group()
def audit() -> None:
    """The log of everything that was decided and done."""


@audit.command("verify")
@in_folder
def verify_audit(folder: Path | None) -> None:
    """Check every signature and the chain."""
    place = existing(folder)
    found = verify(place.audit, known_keys(place))
    for problem in found.problems:
        click.echo(f"line {problem.line}: {problem.code}: {problem.sentence}")
    if not found.intact:
        raise Tampered(f"The audit log has {found.found} problems.", remedy="Compare it with a backup; report it to your security officer.")
    click.echo(f"{found.entries} entries, unbroken; head {found.head.sequence}:{found.head.digest}")


@audit.command("show")
@click.option("--study", help="Only of this study; the beginning of its digest.")
@in_folder
def show_audit(study: str | None, folder: Path | None) -> None:
    """The entries, oldest first."""
    decisions = open_decisions(existing(folder))
    digest = decisions.find(study).digest if study else None
    for entry in decisions.audit.read(study=digest):
        click.echo(f"{entry.time}  {entry.kind:22} {entry.actor:24} {(entry.study or '')[:SHOWN]:{SHOWN}} {json.dumps(entry.details)}")


@site.group()
def key() -> None:
    """This site's key."""


@key.command()
@by_person
@in_folder
def rotate(by: str, folder: Path | None) -> None:
    """Replace the key; the old one signs the new one. Stop the agent first."""
    place = existing(folder)
    new = rotate_key(place, read_settings(place.settings), CLOCK, by=by)
    click.echo(f"The new key: {new.fingerprint}")


@site.command()
@click.option("--user", default="aimer2", show_default=True, help="The user that it runs as; agent and console run as the same one.")
@click.option("--console", is_flag=True, help="For the console in place of the agent.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@in_folder
def unit(user: str, console: bool, output: Path | None, folder: Path | None) -> None:
    """A hardened systemd unit for the agent, or for the console."""
    text = bundles.unit(locate(folder), user, "console" if console else "agent")
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@site.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--extras", default="torch,parquet", show_default=True)
@click.option("--constraints", type=_EXISTING, help="Exact versions.  [default: those installed here]")
def bundle(target: Path, extras: str, constraints: Path | None) -> None:
    """A folder of wheels and an install script, for a machine without the internet."""
    bundles.make_bundle(target, extras, constraints)
    click.echo(f"Copy {target} to the machine and run there: sh {target.name}/install.sh")
