"""Setting the privacy budget of a data set, with every check that comes before a person's word: for commands and pages alike."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.core.said import say
from aimer2.site import snapshots
from aimer2.site.balance import Budget
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledgers


@final
@dataclass(frozen=True, slots=True)
class BudgetWord:
    """What became of it. ``in_force``: from now on; else a second person has to confirm it. ``patients_named``: whether this site can tell if its
    patients are in another data set, too."""

    in_force: bool
    patients_named: bool = True


def set_budget(folder: SiteFolder, ledgers: Ledgers, dataset: str, wanted: Budget, *, by: str, confirmed: bool) -> BudgetWord:
    """Proposes a budget, or confirms one as the second person. Raises NotFound, BadInput where δ is too large for so many patients, Conflict
    where patients of it have a budget already, and what the ledger raises."""
    _check_known(folder, dataset)
    _check_delta(folder, dataset, wanted)
    named = _check_patients(folder, dataset, ledgers)
    ledger = ledgers.own(dataset)
    if confirmed:
        ledger.confirm(wanted, by=by)
    return BudgetWord(confirmed or ledger.propose(wanted, by=by), named)


def share_budget(folder: SiteFolder, ledgers: Ledgers, dataset: str, other: str, *, by: str, confirmed: bool) -> BudgetWord:
    """Puts a data set under the budget of another. Raises NotFound, and what the ledger raises."""
    for name in (dataset, other):
        _check_known(folder, name)
    ledgers.share(dataset, other, by=by, confirmed=confirmed)
    return BudgetWord(confirmed)


def _check_known(folder: SiteFolder, dataset: str) -> None:
    if dataset not in snapshots.names(folder):
        raise NotFound(say("There is no data set '{dataset}' here.", dataset=dataset), remedy="Add it with `aimer2 site dataset add`.")


def _check_delta(folder: SiteFolder, dataset: str, wanted: Budget) -> None:
    """δ is how likely the promise fails for a patient: with one in the number of patients it could fail for one of them."""
    patients = max((record.patients for record in snapshots.records(folder, dataset)), default=0)
    if wanted.delta * 10 * patients > 1:
        most = 10.0 ** math.floor(math.log10(0.1 / patients))
        raise BadInput(
            say("For {patients} patients δ = {delta} is too large.", patients=patients, delta=f"{wanted.delta:g}"),
            remedy=say("Give --delta {most} or less.", most=f"{most:g}"),
        )


def _check_patients(folder: SiteFolder, dataset: str, ledgers: Ledgers) -> bool:
    """Before a first budget of its own: nobody else's patients, or they would have two. Whether that can be told."""
    if ledgers.own(dataset).balance().budget is not None:
        return True
    # Loaded by name: reading mappings takes pandas, which nothing else of budgets needs.
    lineage = importlib.import_module("aimer2.site.lineage")
    common: Mapping[str, int] = lineage.common_patients(folder, dataset)
    for other, count in common.items():
        root = ledgers.own(other).shared() or other
        if ledgers.own(root).balance().budget is not None:
            raise Conflict(
                say("{count} patients of '{dataset}' are in '{other}', too, and have one budget in all.", count=count, dataset=dataset, other=other),
                remedy=say('Put it under that: aimer2 site budget set {dataset} --share {root} --by "NAME"', dataset=dataset, root=root),
            )
    return bool(lineage.names_patients(folder, dataset))
