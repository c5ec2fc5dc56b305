"""What a study will cost the budget of a data set, before anybody has decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from aimer2.core.study import Study
from aimer2.core.task import Stage
from aimer2.site import approved
from aimer2.site.balance import Balance, Budget, Composition
from aimer2.site.ledger import Ledgers
from aimer2.study.private_questions import question_terms
from aimer2.study.spending import spending

if TYPE_CHECKING:
    from aimer2.privacy.accounting import Spent


@final
@dataclass(frozen=True, slots=True)
class Cost:
    """ε of the data set at the δ of its budget: ``before``, as the ledger stands; ``after`` each round that costs anything, run once.

    ``dataset``: whose budget it is. ``begun``: the study has been charged here already, so ``before`` holds a part of it.
    """

    dataset: str
    budget: Budget
    before: float
    after: float
    begun: bool

    @property
    def fits(self) -> bool:
        return self.after <= self.budget.epsilon


def foresee(study: Study, digest: str, ledgers: Ledgers, dataset: str) -> Cost | None:
    """None where the study costs nothing, or no budget is set. Raises BadStudy, NotAvailable, Tampered."""
    if study.privacy.differential_privacy is None:
        return None
    root = ledgers.own(dataset).shared() or dataset
    balance = ledgers.own(root).balance()
    if balance.budget is None:
        return None
    begun = any(charge.study == digest for charge in balance.charges.values())
    rest = _without(balance, digest)
    for spent, count in _tasks(study):
        document: dict[str, Any] = spent.document()
        rest.totals = rest.after(document | {"count": int(document["count"]) * count})
    after = Composition().epsilon(rest.totals, balance.budget.delta)
    return Cost(root, balance.budget, balance.epsilon, after, begun)


def _tasks(study: Study) -> Iterator[tuple[Spent, int]]:
    """What each kind of task spends, and how many there are."""
    if study.analyses:
        counts: list[tuple[Stage, int, int]] = [("analyse", number, 1) for number in range(1, max(question_terms(study).releases) + 1)]
    else:
        counts = [(stage, 1, approved.rounds(study, stage)) for stage in ("train", "final")]
    for stage, number, count in counts:
        spent = spending(study, stage, number)
        if spent is not None and count:
            yield spent, count


def _without(balance: Balance, digest: str) -> Balance:
    """As if the study had not been charged."""
    for task in [task for task in balance.charges if task[0] == digest]:
        balance.totals = balance.without(task)
        del balance.charges[task]
    return balance
