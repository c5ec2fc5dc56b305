"""The privacy budgets: what is spent, by which studies, and what two persons set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from aimer2.audit.entries import Entry
from aimer2.audit.kinds import Kind
from aimer2.charts.chart import Axis, Chart, Series
from aimer2.core.errors import BadInput, NotFound
from aimer2.core.said import mark
from aimer2.site import budgets, snapshots
from aimer2.site.balance import Balance, Budget, ceiling, floor
from aimer2.site.console.door import Page, Visit

_SHOWN = 200


def show_list(visit: Visit) -> Response:
    ledgers = visit.console.ledgers
    known = sorted({*snapshots.names(visit.console.folder), *ledgers.names()})
    found = [(name, ledgers.own(name).balance()) for name in known]
    return visit.page("budgets.html", current="/budgets", found=found, ceiling=ceiling, floor=floor, count=_uncommitted)


def _uncommitted(balance: Balance) -> int:
    return sum(not charge.committed for charge in balance.charges.values())


def show(visit: Visit) -> Response:
    name, ledgers = _checked(visit), visit.console.ledgers
    ledger = ledgers.own(name)
    balance, history = ledger.balance(), ledger.history()
    titles = {known.digest: known.package.study.name for known in visit.console.decisions.store.studies() if known.package}
    others = [other for other in snapshots.names(visit.console.folder) if other != name]
    return visit.page(
        "budget.html",
        current="/budgets",
        name=name,
        balance=balance,
        tasks=Counter(charge.study for charge in balance.charges.values()),
        titles=titles,
        chart=_chart(visit, name, history),
        history=list(reversed(history))[:_SHOWN],
        entries=len(history),
        problems=ledgers.problems(name),
        others=others,
        ceiling=ceiling,
        floor=floor,
    )


def _chart(visit: Visit, name: str, history: Sequence[Entry]) -> Chart | None:
    """ε after each entry, and the budget then."""
    places, spent, allowed = list[float](), list[float | None](), list[float | None]()
    reached, budget = 0.0, None
    for entry in history:
        details: dict[str, Any] = dict(entry.details)
        if entry.kind == Kind.BUDGET_SET and details.get("epsilon") is not None:
            budget = float(details["epsilon"])
        reached = float(details.get("reached", reached))
        places.append(float(entry.sequence))
        spent.append(reached)
        allowed.append(budget)
    if not places:
        return None
    lines = ((visit.text(mark("Spent")), spent), (visit.text(mark("Budget")), allowed))
    return Chart(
        title=f"{visit.text(mark('Privacy spent of'))} {name}",
        description=visit.text(mark("The line of what is spent never crosses that of the budget.")),
        x=Axis(title=visit.text(mark("Entry"))),
        y=Axis(title="ε", low=0.0),
        series=tuple(Series(name=title, mark="step", x=tuple(places), y=tuple(values)) for title, values in lines),
    )


def set_budget(visit: Visit) -> Response:
    """Proposes, or as the second person confirms, a budget; the same words as the command."""
    name, ledgers, by = _checked(visit), visit.console.ledgers, visit.person.name
    confirmed = visit.field("confirm") == "yes"
    if other := visit.field("share"):
        done = budgets.share_budget(visit.console.folder, ledgers, name, other, by=by, confirmed=confirmed)
    else:
        wanted = Budget(_number(visit.field("epsilon")), _number(visit.field("delta")))
        done = budgets.set_budget(visit.console.folder, ledgers, name, wanted, by=by, confirmed=confirmed)
    return visit.go(f"/budgets/{name}", "budget-set" if done.in_force else "budget-proposed")


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise BadInput("A budget is two numbers, ε and δ, such as 3 and 1e-5.") from None


def _checked(visit: Visit) -> str:
    """The name, if there is a data set or a ledger of it: it becomes a part of paths."""
    name = visit.name("name")
    if name not in {*snapshots.names(visit.console.folder), *visit.console.ledgers.names()}:
        raise NotFound("There is no such data set here.")
    return name


PAGES = (
    Page("GET", "/budgets", "see", show_list),
    Page("GET", "/budgets/{name}", "see", show),
    Page("POST", "/budgets/{name}", "set budgets", set_budget),
)
