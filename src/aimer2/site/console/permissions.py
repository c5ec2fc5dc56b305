"""Who may do what at the console: one table. Whoever may log in may see everything but what holds patients' values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal["administrator", "data-protection-officer", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)

Action: TypeAlias = Literal[
    "see",
    "see patients",
    "decide",
    "withdraw",
    "rehearse",
    "refresh",
    "add data sets",
    "publish",
    "set budgets",
    "verify keys",
    "hand out models",
    "manage people",
]

PERMISSIONS: Mapping[Action, frozenset[Role]] = {
    # requests, own reports, policy, audit log, budgets, state of agent and machine
    "see": frozenset(ROLES),
    # exact counts of data sets, the pictures of a rehearsal, what a worker printed
    "see patients": frozenset({"administrator", "data-protection-officer"}),
    # approve and refuse
    "decide": frozenset({"data-protection-officer"}),
    # at once, by whoever is there; also the emergency stop of everything
    "withdraw": frozenset({"administrator", "data-protection-officer"}),
    "rehearse": frozenset({"administrator", "data-protection-officer"}),
    "refresh": frozenset({"administrator", "data-protection-officer"}),
    # of files under the folders that `data_folders` names; also what their columns mean
    "add data sets": frozenset({"administrator", "data-protection-officer"}),
    "publish": frozenset({"data-protection-officer"}),
    # the ledger itself asks for two different persons
    "set budgets": frozenset({"administrator", "data-protection-officer"}),
    "verify keys": frozenset({"administrator", "data-protection-officer"}),
    "hand out models": frozenset({"administrator", "data-protection-officer"}),
    "manage people": frozenset({"administrator"}),
}


def may(roles: Iterable[str], action: Action) -> bool:
    return not PERMISSIONS[action].isdisjoint(roles)
