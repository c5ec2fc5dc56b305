"""A researcher's connection to a coordinator: submit a study, watch it, take its result home."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

import numpy.typing as npt
import urllib3

from aimer2.blobs.folder import FileBlob, FolderStore
from aimer2.client.consortium import Consortium
from aimer2.client.drafts import Drafts
from aimer2.client.event_stream import numbered
from aimer2.client.people import People
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
from aimer2.messages.drafts import Archive
from aimer2.messages.package import Package
from aimer2.messages.package import digest as digest_of
from aimer2.messages.people import CodeLogin, Me, PasswordChange
from aimer2.messages.record import ModelSummary, StageRequest, StudyRecord
from aimer2.messages.tensors import read_tree
from aimer2.messages.told import DataPublished, Spending
from aimer2.messages.wire import CoordinatorInfo, FreezeState, Incident, Login, SiteStatus, StudySummary, Token
from aimer2.repository.evaluation import Terms, evaluation_of
from aimer2.repository.version import WEIGHTS, Version, open_version, read_version, write_version
from aimer2.study.check import refuse_faults
from aimer2.study.events import Event, StudyFinished, StudyStopped
from aimer2.study.pack import pack
from aimer2.study.weights import RECORD

_PREFLIGHT_SECONDS = 600.0
_PAUSES = (0.1, 0.3, 1, 3, 10, 20, 30, 30, 30)
"""Seconds before each new attempt to reach a coordinator that has gone."""

_DIGEST = re.compile("[0-9a-f]{64}")


class _Stop(Document):
    final: bool
    reason: str


@final
class Coordinator:
    """The coordinator at ``url``, known by its certificate's SHA-256 (``fingerprint``), by ``ca_file``, or by a public authority.

    ``key`` is its signing key: with it results are verified; without it the key that it shows over the checked connection.
    """

    def __init__(self, url: str, token: str = "", *, fingerprint: str | None = None, ca_file: Path | None = None, key: str | None = None) -> None:
        self._transport = Transport(Address(url, fingerprint, ca_file), token)
        self.key = key
        self.drafts = Drafts(self._transport)
        """Studies that are still being written."""
        self.people = People(self._transport)
        """Tokens for scripts, accounts, and who works on a study."""
        self.consortium = Consortium(self._transport)
        """Members, invitations, agreements."""

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

    def login_by_code(self, code: str, verifier: str) -> Token:
        """With what a browser has handed on (`aimer2.client.browser`). Raises NotAuthenticated."""
        token = parse(Token, self._transport.ask("POST", "/v1/sessions/code", CodeLogin(code=code, verifier=verifier)))
        self._transport.token = token.access_token
        return token

    def logout(self, *, everywhere: bool = False) -> None:
        """Ends this log-in, or all of this person's; tokens of scripts stay."""
        self._transport.ask("DELETE", "/v1/sessions" if everywhere else "/v1/session")

    def me(self) -> Me:
        """Who is logged in, in which role, until when."""
        return parse(Me, self._transport.ask("GET", "/v1/session"))

    def change_password(self, old: str, new: str) -> None:
        """Ends all other log-ins. Raises NotAuthenticated, BadInput for one that is too short."""
        self._transport.ask("PUT", "/v1/session/password", PasswordChange(old=old, new=new))

    def submit(self, study: Study, folder: Path = Path(), *, supersedes: str | None = None) -> Run:
        """Checks the study, builds its untrained model, uploads both. ``folder`` holds its code. Again: the same study.

        ``supersedes``: digest of the study of which this is a new version; every site approves it anew. Raises BadStudy with all faults.
        """
        refuse_faults(study, folder, SystemClock())
        roster = self._roster(study)
        with tempfile.TemporaryDirectory(prefix="aimer2-") as scratch:
            blobs = FolderStore(Path(scratch))
            package = pack(study, folder, roster, blobs).model_copy(update={"supersedes": supersedes})
            run = Run(self, digest_of(package))
            try:
                run.summary()
            except NotFound:
                for ref in dict.fromkeys(package.blobs):
                    self._upload(blobs.open(ref))
                self._transport.ask("POST", "/v1/studies", package)
            return run

    def studies(self, *, archived: bool = False) -> list[StudySummary]:
        """``archived``: those too that were taken out of the lists."""
        return parse(list[StudySummary], self._transport.ask("GET", f"/v1/studies{'?archived=true' if archived else ''}"))

    def package(self, digest: str) -> Package:
        """The study as it was submitted. Raises Tampered where it is not the one of this digest."""
        found = parse(Package, self._transport.ask("GET", f"/v1/studies/{digest}/package"))
        if digest_of(found) != digest:
            raise Tampered("The package does not have the digest of the study.")
        return found

    def versions(self, digest: str) -> list[StudySummary]:
        """All versions of a study, from the first to the newest, whichever of them is named."""
        found = [self.study(digest)]
        while (before := found[0].supersedes) is not None:
            found.insert(0, self.study(before))
        while (after := found[-1].superseded_by) is not None:
            found.append(self.study(after))
        return found

    def archive(self, digest: str, *, archived: bool = True) -> None:
        """Takes a study that has ended out of the lists, or puts it back; its records stay. Raises Conflict where it has not ended."""
        self._transport.ask("POST", f"/v1/studies/{digest}/archive", Archive(archived=archived))

    def study(self, which: str) -> StudySummary:
        """The study with this digest, this beginning of a digest, or this name. Raises NotFound; Conflict where it could be several."""
        if _DIGEST.fullmatch(which):
            return parse(StudySummary, self._transport.ask("GET", f"/v1/studies/{which}"))
        known = {study.digest: study for study in self.studies(archived=True)}
        found = _found(which, known) or [digest for digest, study in known.items() if study.name == which and study.superseded_by is None]
        if not found:
            raise NotFound(f"There is no study {which!r}.", remedy="`aimer2 study list` shows yours.")
        return known[_only(which, found, "studies")]

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

        A lost connection is made again, and no event is told twice. Raises Unreachable when the coordinator stays away for two minutes.
        """
        failed = 0
        while True:
            try:
                for number, event in self._events(digest, after):
                    failed, after = 0, number
                    yield event
                    if isinstance(event, StudyFinished | StudyStopped):
                        return
                if self.study(digest).state not in ("offered", "running"):
                    return
            except Unreachable:
                if failed == len(_PAUSES):
                    raise
            # Also after a stream that ended in order: the coordinator ends it when it is about to end itself.
            time.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            failed += 1

    def result(self, digest: str) -> dict[str, Any]:
        """The study's record. Raises NotFound while there is none; Tampered or NotAuthenticated unless the coordinator's key has signed it."""
        text = self._transport.ask("GET", f"/v1/studies/{digest}/result").decode("utf-8", "replace")
        key = self.key or self.info().key
        found: dict[str, Any] = json.loads(open_document(text, PublicKey.from_text(key), kind="result"))
        if found["study"] != digest:
            raise Tampered("This is the result of another study.")
        return found

    def save_model(self, digest: str, path: Path) -> BlobRef:
        """The final (or, while it runs, the newest) model in safetensors format; nothing is there until all of it is.

        Raises Unreachable, Tampered where a finished study's model is not the one that its signed result names.
        """
        return self._save(f"/v1/studies/{digest}/model", self._final_model(digest), path)

    def model(self, digest: str) -> dict[str, npt.NDArray[Any]]:
        """The same as arrays by name."""
        with tempfile.TemporaryDirectory(prefix="aimer2-") as scratch:
            path = Path(scratch) / "model"
            blob = FileBlob(self.save_model(digest, path), path)
            return {name: tree.load(leaf).copy() for name, leaf in read_tree(blob).items()}

    def models(self) -> list[ModelSummary]:
        """The versions that finished studies have left: one's own, and those that are released. The oldest first."""
        return parse(list[ModelSummary], self._transport.ask("GET", "/v1/models"))

    def find_model(self, which: str) -> ModelSummary:
        """By the study's digest or its beginning, by ``name`` (the newest version) or ``name@number``. Raises NotFound, Conflict."""
        name, _, number = which.partition("@")
        known = {model.study: model for model in self.models()}
        named = [digest for digest, model in known.items() if model.name == name and (not number or str(model.number) == number)]
        found = _found(which, known) or named[-1:]
        if not found:
            raise NotFound(f"There is no model {which!r}.", remedy="`aimer2 model list` shows those that you may see.")
        return known[_only(which, found, "models")]

    def record(self, digest: str) -> StudyRecord:
        """Everything by which a finished study can be checked offline. Raises NotFound before its end."""
        return parse(StudyRecord, self._transport.ask("GET", f"/v1/studies/{digest}/record"))

    def pull(self, which: str, folder: Path) -> Version:
        """A version into a folder: its weights and its record, both checked against the coordinator's signature. ``which``: see `find_model`.

        Raises NotFound, Conflict where the folder holds another version, Tampered.
        """
        model = self.find_model(which)
        key = PublicKey.from_text(self.key or self.info().key)
        version = open_version(self.record(model.study), key, folder / WEIGHTS)
        if (folder / RECORD).is_file() and read_version(folder).digest != version.digest:
            raise Conflict(f"{folder} holds another version.", remedy="Name another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._save(f"/v1/models/{model.study}/weights", version.model.sha256, folder / WEIGHTS)
        write_version(folder, version)
        return version

    def evaluate(self, which: str | Version, terms: Terms, *, supersedes: str | None = None) -> Run:
        """Submits a study that measures a version on hospitals' patients and trains nothing. ``which``: see `find_model`; or a pulled version, also
        of another coordinator, with its code beside it where it has any. Raises BadStudy with all faults, and as `pull`."""
        if isinstance(which, Version):
            if which.weights is None:
                raise NotFound("The weights of this version are not at hand.", remedy="`aimer2 model pull` brings them.")
            return self.submit(evaluation_of(which, terms), which.weights.parent, supersedes=supersedes)
        with tempfile.TemporaryDirectory(prefix="aimer2-") as scratch:
            return self.evaluate(self.pull(which, Path(scratch)), terms, supersedes=supersedes)

    def move_model(self, digest: str, stage: Literal["validated", "released", "retired"], reason: str) -> ModelSummary:
        """Moves a version to another stage. Raises Conflict where it cannot be reached from its present one."""
        return parse(ModelSummary, self._transport.ask("POST", f"/v1/models/{digest}/stage", StageRequest(stage=stage, reason=reason)))

    def frozen(self) -> FreezeState:
        """Whether somebody has stopped everything at the coordinator, and why."""
        return parse(FreezeState, self._transport.ask("GET", "/v1/freeze"))

    def freeze(self, reason: str) -> FreezeState:
        """Stops everything of every study at once, until `thaw`. For operators. Raises Conflict where it is frozen."""
        return parse(FreezeState, self._transport.ask("POST", "/v1/freeze", Incident(reason=reason)))

    def thaw(self, reason: str) -> FreezeState:
        """Paused studies wait until somebody resumes them. For operators. Raises Conflict where nothing is frozen."""
        return parse(FreezeState, self._transport.ask("POST", "/v1/thaw", Incident(reason=reason)))

    def save_audit(self, path: Path) -> int:
        """The coordinator's audit log as it is signed, to a new file; so many bytes. For operators and auditors. Raises Conflict."""
        try:
            with path.open("xb") as file, self._opened("/v1/audit") as response:
                return sum(file.write(piece) for piece in response.stream(PIECE))
        except FileExistsError:
            raise Conflict(f"{path} exists and is not overwritten.", remedy="Name a file that does not exist.") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def sites(self) -> list[SiteStatus]:
        return parse(list[SiteStatus], self._transport.ask("GET", "/v1/sites"))

    def spending(self, digest: str) -> list[Spending]:
        """What each site's ledger has charged to a study so far, as the site has signed it; of sites that tell."""
        return parse(list[Spending], self._transport.ask("GET", f"/v1/spending?study={digest}"))

    def descriptions(self, site: str) -> list[DataPublished]:
        """What a site's people have published of its data sets: words and coarse counts. Raises NotFound."""
        return parse(list[DataPublished], self._transport.ask("GET", f"/v1/sites/{site}/descriptions"))

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

    def _final_model(self, digest: str) -> str | None:
        """What the signed result says of the model; None while there is none."""
        try:
            return str(self.result(digest)["model"]["sha256"])
        except NotFound:
            return None

    def _save(self, address: str, expected: str | None, path: Path) -> BlobRef:
        draft, summed, size = path.with_name(f".{path.name}.{os.getpid()}.draft"), hashlib.sha256(), 0
        try:
            with self._opened(address) as response, draft.open("wb") as file:
                for piece in response.stream(PIECE):
                    file.write(piece)
                    summed.update(piece)
                    size += len(piece)
                announced = response.headers.get("ETag", "").strip('"')
            if summed.hexdigest() != (expected or announced):
                raise Tampered("The model that came does not have the digest that was announced.")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return BlobRef(sha256=summed.hexdigest(), size=size)

    def _upload(self, blob: Blob) -> None:
        """From where an earlier attempt stopped. What is there already is sent all the same: it proves that we have it."""
        path, view = f"/v1/blobs/{blob.ref.sha256}", blob.view()
        offset = _offset(self._transport.send("HEAD", path))
        for pause in _PAUSES:
            headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(view)), "Content-Length": str(len(view) - offset)}
            pieces = [view[start : start + PIECE] for start in range(offset, len(view), PIECE)]
            try:
                answer = self._transport.send("PUT", path, pieces, headers=headers)
            except Unreachable:
                time.sleep(pause)
                answer = self._transport.send("HEAD", path)
            else:
                if answer.status == 201:
                    return
                if "Upload-Offset" not in answer.headers:
                    self._transport.checked(answer)
            offset = _offset(answer)
        raise Unreachable("The upload broke off again and again.")

    def _events(self, digest: str, after: int) -> Iterator[tuple[int, Event]]:
        """Event by event with its number, as it comes."""
        with self._opened(f"/v1/studies/{digest}/events", {"Last-Event-ID": str(after)}) as response:
            yield from numbered(response.stream(PIECE), after)

    @contextmanager
    def _opened(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        with transport_errors(self.url):
            response = self._transport.send("GET", path, headers=headers, stream=True)
            try:
                yield self._transport.checked(response)
            finally:
                # What was not read is given up together with its connection.
                response.close()


def _found(which: str, digests: Iterable[str]) -> list[str]:
    return [digest for digest in digests if digest.startswith(which)] if len(which) >= 4 else []


def _only(which: str, found: Sequence[str], things: str) -> str:
    """Raises Conflict where it could be several."""
    if len(found) > 1:
        raise Conflict(f"{which!r} could be {len(found)} {things}.", remedy="Give more of the digest: " + ", ".join(digest[:16] for digest in found))
    return found[0]


def _offset(response: urllib3.BaseHTTPResponse) -> int:
    return int(response.headers.get("Upload-Offset", "0"))
