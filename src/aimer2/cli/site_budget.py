"""`aimer2 site budget`: how much privacy each data set may spend, what has been spent, and by which study."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from aimer2.audit.entries import Entry
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.audit.verify import verify as verify_log
from aimer2.cli.site_options import CLOCK, SHOWN, by_person, in_folder
from aimer2.core.errors import BadInput, NotFound, Tampered
from aimer2.identity.keys import SigningKey
from aimer2.site import budgets, snapshots
from aimer2.site.balance import Balance, Budget, ceiling, floor
from aimer2.site.enrolment import known_keys
from aimer2.site.folder import SiteFolder, existing
from aimer2.site.ledger import Ledgers
from aimer2.site.store import Store

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group()
def budget() -> None:
    """The privacy ledger: what each data set may spend, for all studies together."""


def _ledgers(folder: SiteFolder) -> Ledgers:
    key = SigningKey.load(folder.key)
    return Ledgers(folder, key, AuditLog(folder.audit, key, CLOCK), CLOCK)


@budget.command()
@click.argument("dataset", required=False)
@_AS_JSON
@in_folder
def show(dataset: str | None, as_json: bool, folder: Path | None) -> None:
    """Print each data set's budget and what is spent of it by which studies."""
    place = existing(folder)
    ledgers = _ledgers(place)
    known = sorted({*snapshots.names(place), *ledgers.names()})
    if dataset is not None and dataset not in known:
        raise NotFound(f"There is no data set '{dataset}' here; there is: {', '.join(known) or 'none'}.")
    found = {name: ledgers.own(name).balance() for name in ([dataset] if dataset else known)}
    if as_json:
        click.echo(json.dumps([_document(name, one) for name, one in found.items()], indent=1))
        return
    titles = {study.digest: study.package.study.name for study in Store(place.state).studies() if study.package}
    table = Table("Data set", "Budget ε", "at δ", "Spent ε", "Reserved", "Studies", box=None)
    for name, one in found.items():
        table.add_row(name, *_row(one, titles))
    Console().print(table)
    if any(one.budget is None and one.shared is None for one in found.values()):
        click.echo("Where no budget is set, whatever would be charged is refused.")
    for name, one in found.items():
        if one.proposal is not None:
            wanted = one.proposal.budget or f"the budget of '{one.proposal.shared}'"
            click.echo(f"{name}: {one.proposal.by} proposed {wanted}; a second person has to confirm it.")


def _row(one: Balance, titles: Mapping[str, str]) -> list[str]:
    if one.shared is not None:
        return [f"under '{one.shared}'", "", "", "", ""]
    if one.budget is None:
        return ["none set", "", "", "", ""]
    tasks = Counter(charge.study for charge in one.charges.values())
    studies = ", ".join(f"{titles.get(study, '')} {study[:SHOWN]} ({_tasks(count)})".strip() for study, count in tasks.items())
    reserved = sum(not charge.committed for charge in one.charges.values())
    return [floor(one.budget.epsilon), f"{one.budget.delta:g}", ceiling(one.epsilon), _tasks(reserved) if reserved else "", studies]


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def _document(name: str, one: Balance) -> dict[str, Any]:
    waiting = one.proposal
    return {
        "dataset": name,
        "shared": one.shared,
        "budget": _terms(one.budget),
        "set_by": list(one.set_by),
        "spent": one.epsilon,
        "reserved": sum(not charge.committed for charge in one.charges.values()),
        "studies": dict(Counter(charge.study for charge in one.charges.values())),
        "proposed": None if waiting is None else {"by": waiting.by, "time": waiting.time, "budget": _terms(waiting.budget), "shared": waiting.shared},
    }


def _terms(one: Budget | None) -> dict[str, float] | None:
    return None if one is None else {"epsilon": one.epsilon, "delta": one.delta}


@budget.command("set")
@click.argument("dataset")
@click.option("--epsilon", type=float, help="How much may be spent, for good, by all studies together.")
@click.option("--delta", type=float, help="At which δ; at most one in ten times the number of patients.")
@click.option("--share", help="Put it under the budget of this data set, which has some of the same patients.")
@click.option("--confirm", is_flag=True, help="As the second person, confirm what the first one proposed.")
@by_person
@in_folder
def set_budget(dataset: str, share: str | None, confirm: bool, by: str, folder: Path | None, **terms: float | None) -> None:
    """Set a budget: less at once, a first one or more with a second person."""
    place = existing(folder)
    ledgers = _ledgers(place)
    if share is not None:
        if terms["epsilon"] is not None or terms["delta"] is not None:
            raise BadInput("A data set under another's budget has none of its own: give --share alone.")
        shared = budgets.share_budget(place, ledgers, dataset, share, by=by, confirmed=confirm)
        _tell(dataset, f"is under the budget of '{share}'", f"--share {share}", shared.in_force)
        return
    wanted = _wanted(terms["epsilon"], terms["delta"])
    word = budgets.set_budget(place, ledgers, dataset, wanted, by=by, confirmed=confirm)
    if not word.patients_named:
        click.echo("Its mapping names no column of patients, so nobody can tell here whether they are in another data set, too.")
    _tell(dataset, f"may spend {wanted}", f"--epsilon {wanted.epsilon!r} --delta {wanted.delta!r}", word.in_force)


def _wanted(epsilon: float | None, delta: float | None) -> Budget:
    if epsilon is None or delta is None:
        raise BadInput("A budget is an ε and a δ: give --epsilon and --delta.")
    return Budget(epsilon, delta)


def _tell(dataset: str, terms: str, options: str, in_force: bool) -> None:
    if in_force:
        click.echo(f"{dataset} {terms}, from now on.")
        return
    click.echo(f"Proposed, and not in force yet: {dataset} {terms}.")
    click.echo(f'A second person confirms it: aimer2 site budget set {dataset} {options} --confirm --by "NAME"')


@budget.command()
@click.argument("dataset")
@_AS_JSON
@in_folder
def history(dataset: str, as_json: bool, folder: Path | None) -> None:
    """Print a data set's ledger: who, when, which study, and ε after it."""
    place = existing(folder)
    entries = _ledgers(place).own(dataset).history()
    if as_json:
        fields = ("sequence", "time", "kind", "actor", "study", "details")
        click.echo(json.dumps([{name: getattr(entry, name) for name in fields} for entry in entries], indent=1))
        return
    if not entries:
        raise NotFound(f"Nothing was ever set or spent of '{dataset}'.", remedy="`aimer2 site budget show` lists the data sets.")
    for entry in entries:
        click.echo(f"{entry.time}  {entry.kind:17} {entry.actor:24} {(entry.study or '')[:SHOWN]:{SHOWN}} {_what(entry)}")


def _what(entry: Entry) -> str:
    details: Mapping[str, Any] = entry.details
    reached = f"; ε {ceiling(details['reached'])}" if details.get("reached") else ""
    if entry.kind in (Kind.BUDGET_PROPOSED, Kind.BUDGET_SET):
        terms = f"under '{details['shared']}'" if details.get("shared") else str(Budget(details["epsilon"], details["delta"]))
        return f"{terms}{' by ' + ' and '.join(details['by']) if 'by' in details else ''}{reached}"
    if entry.kind == Kind.PRIVACY_RESERVED:
        spent = details["spent"]
        parameters = ", ".join(f"{name} {value:g}" for name, value in spent["parameters"].items())
        return f"{details['task']}/{details['attempt']}: {spent['count']} × {spent['kind']} ({parameters}){reached}"
    return f"{details['task']}/{details['attempt']}{reached}" if "task" in details else json.dumps(entry.details)


@budget.command()
@in_folder
def verify(folder: Path | None) -> None:
    """Check every ledger, and the audit log that says how long each is."""
    place = existing(folder)
    ledgers = _ledgers(place)
    found = {name: list(ledgers.problems(name)) for name in ledgers.names()}
    audit = verify_log(place.audit, known_keys(place))
    for name, problems in (*found.items(), ("audit log", audit.problems)):
        for problem in problems:
            click.echo(f"{name}: line {problem.line}: {problem.code}: {problem.sentence}")
    if not audit.intact or any(found.values()):
        raise Tampered("What was spent here is not certain.", remedy="Report it to your security officer before anything else runs.")
    for name in found:
        click.echo(f"{name}: {len(ledgers.own(name).history())} entries, unbroken")
    click.echo(f"audit log: {audit.entries} entries, unbroken; head {audit.head.sequence}:{audit.head.digest}")
