"""What a task leaves at the site on its way out: checked, masked where the study sums in secret, stored; only then may it leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from pydantic import ValidationError

from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import AimerError, BadUpdate
from aimer2.core.protocols import Blob
from aimer2.core.task import BlobRef, Check, Document, FigureDocument, Task
from aimer2.messages.package import Package
from aimer2.messages.tensors import read_tree
from aimer2.site import check
from aimer2.site.memory_files import close
from aimer2.study.bounding import bounded
from aimer2.study.compressing import MEMORY, Compression, compressed
from aimer2.study.secure_update import SecureUpdate
from aimer2.study.site_level import CLIPPING, SiteLevel

MOST_CHECKS, LONGEST_NAME, LONGEST_FINDING = 300, 120, 300
"""Of a preflight: lines, and characters of a line's name and sentence."""


@final
@dataclass(frozen=True, slots=True)
class Work:
    """An approved task of a study."""

    task: Task
    package: Package
    dataset: str
    secure: SecureUpdate | None
    """Where the study sums in secret: the site's half of it."""
    left_out: Mapping[str, BlobRef] = field(default_factory=dict)
    """What the agent itself keeps for the study's compression."""


@final
@dataclass(frozen=True, slots=True)
class Protected:
    """What a task has left in the site's store: sums as they may leave, the site's own memory, and what is said with the sums."""

    sums: Mapping[str, check.Admitted]
    memory: Mapping[str, check.Admitted]
    message: str


class Handed(Document):
    """What a worker says of a finished task; its files follow in the order of ``sums``, then ``memory``."""

    sums: tuple[str, ...]
    memory: tuple[str, ...]
    kept: tuple[str, ...]
    checks: tuple[Check, ...]
    figures: tuple[FigureDocument, ...]
    cohorts: Mapping[str, str] = {}


def protect(work: Work, received: Mapping[str, Blob], handed: Handed, files: list[int], wanted: list[check.Wanted], store: FolderStore) -> Protected:
    """Checks, compresses, bounds, puts noise on, masks and stores sums, then the site's memory; closes the files.

    What may leave is written once: under secure aggregation the sums themselves never lie on a disk.
    """
    try:
        if handed.checks and work.task.stage != "preflight":
            raise BadUpdate("The worker says more than its sums.")
        trees = check.checked(files, wanted)
        left_out = {name: read_tree(store.open(ref), lazy=True) for name, ref in work.left_out.items()}
        small = compressed(Compression.of(work.package.study), work.task, dict(zip(handed.sums, trees, strict=False)), left_out)
        sums = bounded(work.package.study.method, work.task.stage, small.sums)
        private = SiteLevel.of(work.package.study, len(work.package.roster))
        if private is not None:
            sums = private.at_site(work.task.stage, sums, {name: read_tree(blob) for name, blob in received.items() if name == CLIPPING})
        masked = None if work.secure is None else work.secure.mask(work.task, sums)
        leaving = sums if masked is None else masked.trees
        stored = check.keep([*leaving.values(), *trees[len(handed.sums) :], *small.memory.values()], store)
    finally:
        close(files)
    made = dict(zip(leaving, stored, strict=False))
    message = ""
    if masked is not None and work.secure is not None:
        try:
            message = work.secure.submit(work.task, masked, {name: one.ref for name, one in made.items()})
        except AimerError:
            store.delete(*(one.ref for one in made.values()))
            raise
    return Protected(made, dict(zip((*handed.memory, *small.memory), stored[len(leaving) :], strict=True)), message)


def handed_over(reply: dict[str, Any], files: list[int]) -> Handed:
    try:
        handed = Handed.model_validate(reply)
        names = (*handed.sums, *handed.memory)
        own = not any(name.startswith(MEMORY) for name in handed.memory)
        if own and len(names) == len(files) and len(set(handed.sums)) == len(handed.sums):
            return handed
    except ValidationError:
        pass
    close(files)
    raise BadUpdate("The worker's answer is not of the agreed form.")


def short(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Made anew: words go along only where they say the finding that is sent, so that nothing leaves beside it."""
    return tuple(
        Check(name=str(one.name)[:LONGEST_NAME], passed=one.passed, blocking=one.blocking, finding=_cut(one.finding)) for one in checks[:MOST_CHECKS]
    )


def _cut(finding: str) -> str:
    return finding if len(finding) <= LONGEST_FINDING else str(finding)[:LONGEST_FINDING]
