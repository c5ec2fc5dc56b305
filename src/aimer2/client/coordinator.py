"""A researcher's connection to a coordinator: submit a study, watch it, take its result home."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy.typing as npt
import urllib3

from aimer2.blobs.folder import FileBlob, FolderStore
from aimer2.client.run import Run
from aimer2.client.transport import PIECE, Address, Transport, parse, transport_errors
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadStudy, Conflict, Fault, NotFound, Tampered, Unreachable
from aimer2.core.protocols import Blob
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, Document, SiteId
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.tensors import read_tree
from aimer2.messages.wire import CoordinatorInfo, Login, SiteStatus, StudySummary, Token
from aimer2.study.check import refuse_faults
from aimer2.study.events import EVENT, Event, StudyFinished, StudyStopped
from aimer2.study.pack import pack

_PREFLIGHT_SECONDS = 600.0
_TRIES = 5


class _Stop(Document):
    final: bool
    reason: str


@final
class Coordinator:
    """The coordinator at ``url``, known by its certificate's SHA-256 (``fingerprint``), by ``ca_file``, or by a public authority.

    ``key`` is its signing key: with it results are verified; without it the key that it shows over the checked connection.
    """

    def __init__(
        self, url: str, token: str = "", *, fingerprint: str | None = None, ca_file: Path | None = None, key: str | None = None
    ) -> None:
        self._transport = Transport(Address(url, fingerprint, ca_file), token)
        self.key = key

    @property
    def url(self) -> str:
        return self._transport.address.url

    def info(self) -> CoordinatorInfo:
        return parse(CoordinatorInfo, self._transport.ask("GET", "/v1/coordinator"))

    def login(self, user: str, password: str) -> Token:
        """Raises NotAuthenticated."""
        token = parse(Token, self._transport.ask("POST", "/v1/sessions", Login(user=user, password=password)))
        self._transport.token = token.access_token
        return token

    def submit(self, study: Study, folder: Path = Path()) -> Run:
        """Checks the study, builds its untrained model, uploads both. ``folder`` holds its code. Again: the same study.

        Raises BadStudy with all faults.
        """
        refuse_faults(study, folder, SystemClock())
        roster = self._roster(study)
        with tempfile.TemporaryDirectory(prefix="aimer2-") as scratch:
            blobs = FolderStore(Path(scratch))
            package = pack(study, folder, roster, blobs)
            for ref in {package.initial, *package.files.values()}:
                self._upload(blobs.open(ref))
            return Run(self, parse(StudySummary, self._transport.ask("POST", "/v1/studies", package)).digest)

    def studies(self) -> list[StudySummary]:
        return parse(list[StudySummary], self._transport.ask("GET", "/v1/studies"))

    def study(self, which: str) -> StudySummary:
        """The study with this digest, this beginning of a digest, or this name. Raises NotFound; Conflict where it could be several."""
        known = self.studies()
        found = [study for study in known if study.digest.startswith(which)] if len(which) >= 4 else []
        found = found or [study for study in known if study.name == which]
        if not found:
            raise NotFound(f"There is no study {which!r}.", remedy="`aimer2 study list` shows yours.")
        if len(found) > 1:
            raise Conflict(f"{which!r} could be {len(found)} studies.", remedy="Give more of the digest: " + ", ".join(s.digest[:16] for s in found))
        return found[0]

    def start(self, digest: str) -> StudySummary:
        """Starts with the sites that have approved; others may still join."""
        return self._act(digest, "start")

    def stop(self, digest: str, *, final: bool = True, reason: str = "Stopped by the researcher.") -> StudySummary:
        """For good, or (``final`` false) until `resume`."""
        return self._act(digest, "stop", _Stop(final=final, reason=reason))

    def resume(self, digest: str) -> StudySummary:
        return self._act(digest, "resume")

    def preflight(self, digest: str) -> Mapping[str, Any]:
        """What each site that has approved says of its data: checks by site, and who was silent."""
        found: Mapping[str, Any] = json.loads(self._transport.ask("POST", f"/v1/studies/{digest}/preflight", silence=_PREFLIGHT_SECONDS))
        return found

    def events(self, digest: str, after: int = 0) -> Iterator[Event]:
        """All events from the beginning (or after number ``after``), then live, until the study has finished, stopped or paused.

        A broken connection is taken up where it broke; Unreachable after several tries in a row.
        """
        failed = 0
        while True:
            try:
                for number, event in self._events(digest, after):
                    failed, after = 0, number
                    yield event
                    if isinstance(event, StudyFinished | StudyStopped):
                        return
                last = self.study(digest).state
            except Unreachable:
                failed += 1
                if failed >= _TRIES:
                    raise
                continue
            if last in ("paused", "finished", "stopped"):
                return

    def result(self, digest: str) -> dict[str, Any]:
        """The study's record. Raises NotFound while there is none, Tampered unless the coordinator's key has signed it."""
        text = self._transport.ask("GET", f"/v1/studies/{digest}/result").decode()
        key = self.key or self.info().key
        found: dict[str, Any] = json.loads(open_document(text, PublicKey.from_text(key), kind="result"))
        return found

    def save_model(self, digest: str, path: Path) -> BlobRef:
        """The final (or, while it runs, the newest) model in safetensors format; nothing is there until all of it is. Raises Unreachable."""
        draft, summed, size = path.with_name(f".{path.name}.draft"), hashlib.sha256(), 0
        response = self._opened(f"/v1/studies/{digest}/model")
        with draft.open("wb") as file, transport_errors(self.url):
            for piece in response.stream(PIECE):
                file.write(piece)
                summed.update(piece)
                size += len(piece)
        if f'"{summed.hexdigest()}"' != response.headers.get("ETag"):
            draft.unlink()
            raise Tampered("The model that came does not have the digest that was announced.")
        draft.replace(path)
        return BlobRef(sha256=summed.hexdigest(), size=size)

    def model(self, digest: str) -> dict[str, npt.NDArray[Any]]:
        """The same as arrays by name."""
        with tempfile.TemporaryDirectory(prefix="aimer2-") as scratch:
            path = Path(scratch) / "model"
            blob = FileBlob(self.save_model(digest, path), path)
            return {name: tree.load(leaf).copy() for name, leaf in read_tree(blob).items()}

    def sites(self) -> list[SiteStatus]:
        return parse(list[SiteStatus], self._transport.ask("GET", "/v1/sites"))

    def _roster(self, study: Study) -> dict[SiteId, str]:
        """Whom the study asks, with their keys. Raises BadStudy where it names a site that is not enrolled."""
        enrolled = {site.site: site.key for site in self.sites() if not site.revoked}
        unknown = sorted(set(study.sites.names) - enrolled.keys())
        if unknown:
            known = ", ".join(sorted(enrolled)) or "none"
            raise BadStudy([Fault("sites.names", f"not enrolled: {', '.join(unknown)}", f"the enrolled sites are: {known}")])
        return {site: enrolled[site] for site in study.sites.names or enrolled}

    def _act(self, digest: str, action: str, body: Document | None = None) -> StudySummary:
        return parse(StudySummary, self._transport.ask("POST", f"/v1/studies/{digest}/{action}", body))

    def _upload(self, blob: Blob) -> None:
        """From where an earlier attempt stopped."""
        path = f"/v1/blobs/{blob.ref.sha256}"
        there = self._transport.send("HEAD", path)
        if there.status == 200:
            return
        offset = int(there.headers.get("Upload-Offset", "0"))
        view = blob.view()
        headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(view)), "Content-Length": str(len(view) - offset)}
        pieces = [view[start : start + PIECE] for start in range(offset, len(view), PIECE)]
        self._transport.checked(self._transport.send("PUT", path, pieces, headers=headers))

    def _events(self, digest: str, after: int) -> Iterator[tuple[int, Event]]:
        """Event by event with its number, as it comes."""
        number = after
        with transport_errors(self.url):
            for line in _lines(self._opened(f"/v1/studies/{digest}/events", {"Last-Event-ID": str(after)})):
                field, _, value = line.partition(": ")
                if field == "id":
                    number = int(value)
                elif field == "data":
                    yield number, EVENT.validate_json(value)

    def _opened(self, path: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        return self._transport.checked(self._transport.send("GET", path, headers=headers, stream=True))


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    rest = b""
    for piece in response.stream(PIECE):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)
