"""The models of the hospital's own that studies have left: kept, listed, exported and deleted here. None of them was ever sent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import final

from aimer2.audit.kinds import Kind
from aimer2.blobs.folder import FileBlob, FolderStore
from aimer2.core import tree
from aimer2.core.errors import BadInput, NotFound, Tampered
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Digest, Document, FigureDocument, Task
from aimer2.messages.tensors import read_tree
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder
from aimer2.study.personal import MODEL, PREPARATION

_CARD, _WEIGHTS = "card.json", "model.safetensors"


@final
class Card(Document):
    """What is known of a kept model: its study, the figures on this hospital's held-out patients, and how columns were prepared for it."""

    format: int = 1
    digest: Digest
    site: str
    finished: float
    model: BlobRef
    figures: tuple[FigureDocument, ...]
    preparation: Mapping[str, tuple[float, ...]]
    study: Study

    @property
    def kept(self) -> str:
        """Which of the three models it is, and how it was chosen."""
        return next((figure.note for figure in self.figures if figure.name == "kept"), "")


def keep(decisions: Decisions, digest: str, blobs: FolderStore) -> Card | None:
    """Takes the personal model out of what is about to be erased; None where the study has left none."""
    package = decisions.find(digest).package
    # The memory as a task after the last one would find it.
    after = Task(id="after", study=digest, site=decisions.site, stage="final", round_number=2)
    memory = decisions.store.standing(after).memory
    if package is None or MODEL not in memory or PREPARATION not in memory:
        return None
    last = [done for done in decisions.store.rounds(digest) if done["stage"] == "final"][-1]
    prepared = read_tree(blobs.open(memory[PREPARATION]))
    card = Card(
        digest=digest,
        site=decisions.site,
        finished=last["finished"],
        model=memory[MODEL],
        figures=tuple(FigureDocument(**figure) for figure in last["figures"]),
        preparation={name: tuple(tree.load(leaf).tolist()) for name, leaf in prepared.items()},
        study=package.study,
    )
    place = decisions.folder.model(digest)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(place / _WEIGHTS, blobs.open(card.model).view())
    # Written last: a model is there when its card is.
    _write(place / _CARD, card.model_dump_json(indent=1).encode())
    decisions.audit.append(Kind.MODEL_KEPT, actor="agent", study=digest, details={"sha256": card.model.sha256, "kept": card.kept})
    return card


def cards(folder: SiteFolder) -> list[Card]:
    """All kept models, the newest first."""
    found = [Card.model_validate_json(path.read_bytes()) for path in folder.models.glob(f"*/{_CARD}")]
    return sorted(found, key=lambda card: -card.finished)


def find(folder: SiteFolder, prefix: str) -> Card:
    """The model of the study whose digest begins so. Raises NotFound, BadInput where several do."""
    found = [card for card in cards(folder) if prefix and card.digest.startswith(prefix)]
    if not found:
        raise NotFound(
            say("There is no model of a study whose digest begins with '{prefix}'.", prefix=prefix), remedy="`aimer2 site model list` lists them."
        )
    if len(found) > 1:
        raise BadInput(say("{count} models are of studies that begin with '{prefix}'; give more of the digest.", count=len(found), prefix=prefix))
    return found[0]


def weights(folder: SiteFolder, card: Card) -> FileBlob:
    """The weights of a kept model. Raises Tampered where they are not those that were kept."""
    blob = FileBlob(card.model, folder.model(card.digest) / _WEIGHTS)
    if hashlib.sha256(blob.view()).hexdigest() != card.model.sha256:
        raise Tampered("The weights are not those that were kept here.", remedy="Restore them from a backup.")
    return blob


def export(decisions: Decisions, card: Card, to: Path, *, by: str) -> None:
    """Writes the weights as a safetensors file, and records who did it: from there on they are that person's care."""
    _write(to, weights(decisions.folder, card).view())
    record_export(decisions, card, to.name, by=by)


def record_export(decisions: Decisions, card: Card, name: str, *, by: str) -> None:
    """``name``: of the file that the weights went into."""
    decisions.audit.append(Kind.MODEL_EXPORTED, actor=_named(by), study=card.digest, details={"sha256": card.model.sha256, "file": name})


def delete(decisions: Decisions, card: Card, *, by: str) -> None:
    decisions.audit.append(Kind.MODEL_DELETED, actor=_named(by), study=card.digest, details={"sha256": card.model.sha256})
    shutil.rmtree(decisions.folder.model(card.digest))


def _named(by: str) -> str:
    if len(by.strip()) < 2:
        raise BadInput("A decision names the person who takes it.", remedy="Give the name with --by.")
    return by


def _write(path: Path, data: bytes | memoryview) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    os.replace(draft, path)
