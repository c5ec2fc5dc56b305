"""A researcher's drafts at a coordinator: studies that are still being written, seen by nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import final

from aimer2.client.transport import Transport, parse
from aimer2.core.errors import Conflict, NotFound
from aimer2.core.task import Digest
from aimer2.messages.drafts import Draft, DraftChange, DraftEntry, DraftFaults, DraftText
from aimer2.messages.wire import FaultDocument

STUDY_FILE = "study.toml"


@final
class Drafts:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self) -> list[DraftEntry]:
        """Without their texts, the newest change first."""
        return parse(list[DraftEntry], self._transport.ask("GET", "/v1/drafts"))

    def find(self, which: str) -> Draft:
        """By its id, the beginning of it, or its name. Raises NotFound, Conflict where it could be several."""
        known = self.all()
        found = [draft for draft in known if len(which) >= 4 and draft.id.startswith(which)] or [draft for draft in known if draft.name == which]
        if not found:
            raise NotFound(f"You have no draft {which!r}.", remedy="`aimer2 study draft list` shows yours.")
        if len(found) > 1:
            raise Conflict(f"{which!r} could be {len(found)} drafts.", remedy="Give one of the ids: " + ", ".join(draft.id for draft in found))
        return parse(Draft, self._transport.ask("GET", f"/v1/drafts/{found[0].id}"))

    def save(self, text: DraftText) -> Draft:
        """A new one; it may have faults."""
        return parse(Draft, self._transport.ask("POST", "/v1/drafts", text))

    def change(self, identifier: str, text: DraftText, *, revision: int) -> Draft:
        """``revision``: of the draft that the change rests on. Raises NotFound, Conflict where it was changed since."""
        change = DraftChange(**text.model_dump(), revision=revision)
        return parse(Draft, self._transport.ask("PUT", f"/v1/drafts/{identifier}", change))

    def discard(self, identifier: str, *, revision: int | None = None) -> None:
        """``revision``: of the draft that was looked at. Raises NotFound, Conflict where it was changed since."""
        self._transport.ask("DELETE", f"/v1/drafts/{identifier}" + ("" if revision is None else f"?revision={revision}"))

    def faults(self, identifier: str) -> tuple[FaultDocument, ...]:
        """Everything that speaks against submitting it, but for what only the building of its model shows. Raises NotFound."""
        return parse(DraftFaults, self._transport.ask("GET", f"/v1/drafts/{identifier}/faults")).faults


def draft_of(file: Path, name: str, supersedes: Digest | None = None) -> DraftText:
    """A study file with the Python files beside it. Raises NotFound."""
    if not file.is_file():
        raise NotFound(f"There is no file {file}.")
    code = {path.name: path.read_text(encoding="utf-8") for path in sorted(file.parent.glob("*.py"))}
    return DraftText(name=name, text=file.read_text(encoding="utf-8"), files=code, supersedes=supersedes)


def write_draft(draft: Draft, folder: Path) -> Path:
    """The study file in this folder, with its code. Raises Conflict for a file that is there and differs."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {STUDY_FILE: draft.text, **draft.files}
    for name, text in texts.items():
        path = folder / Path(name).name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise Conflict(f"{path} exists and is not overwritten.", remedy="Name another folder.")
    for name, text in texts.items():
        (folder / Path(name).name).write_text(text, encoding="utf-8")
    return folder / STUDY_FILE
