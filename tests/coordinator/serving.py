"""A real coordinator process on loopback with TLS, and the smallest clients that can speak to it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import urllib3
from click.testing import CliRunner

from aimer2.cli.coordinator import coordinator as command
from aimer2.core.study import Study
from aimer2.core.task import Answer, BlobRef, Check, Task
from aimer2.identity.assertions import make_assertion
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.package import Package, digest
from aimer2.messages.tensors import write_tree
from aimer2.messages.wire import attach

PROGRAM = "from aimer2.cli.coordinator import coordinator; coordinator()"
SOURCE = Path(__file__).parents[2] / "src"


@dataclass
class ManualClock:
    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Server:
    """A coordinator's folder, and the process that runs it."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def command(self, *arguments: str, input: str | None = None) -> str:
        result = CliRunner().invoke(command, ["--folder", str(self.folder), *arguments], input=input)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    def start(self) -> None:
        ready = self.folder.parent / f"ready-{secrets.token_hex(4)}"
        environment = os.environ | {"PYTHONPATH": str(SOURCE)}
        arguments = [sys.executable, "-c", PROGRAM, "--folder", str(self.folder), "run", "--ready-file", str(ready)]
        log = (self.folder.parent / "coordinator.log").open("a")
        self.process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, text=True)
        end = time.monotonic() + 20
        while not ready.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def log(self) -> str:
        return (self.folder.parent / "coordinator.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)


@dataclass
class Client:
    """Speaks to a coordinator as somebody."""

    server: Server
    token: str = ""
    pool: urllib3.HTTPSConnectionPool = field(init=False)

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cafile=str(self.server.folder / "tls" / "certificate.pem"))
        self.pool = urllib3.HTTPSConnectionPool("127.0.0.1", self.server.port, ssl_context=context, retries=False, maxsize=4, timeout=60)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given["Content-Type"] = "application/json"
        return self.pool.urlopen(method, path, body=body, headers=given)

    def get(self, path: str, **headers: str) -> Any:
        response = self.call("GET", path, **headers)
        assert response.status == 200, response.data
        return response.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        response = self.call("POST", path, body)
        assert response.status == status, response.data
        return response.json() if response.data else None

    def upload(self, data: bytes) -> BlobRef:
        ref = ref_of(data)
        response = self.call("PUT", f"/v1/blobs/{ref.sha256}", data, Upload_Offset="0", Upload_Length=str(len(data)))
        assert response.status == 201, response.data
        return ref


@dataclass
class SiteClient(Client):
    """A hospital: its key and what it does with tasks."""

    name: str = ""
    key: SigningKey = field(default_factory=SigningKey.generate)
    coordinator_key: str = ""
    revision: int = -1

    def enrol(self, invitation: str) -> None:
        body = {"code": Invitation.from_text(invitation).code, "site": self.name, "key": self.key.public.text, "version": "1"}
        self.coordinator_key = self.post("/v1/enrolments", body)["coordinator_key"]

    def login(self) -> None:
        response = self.ask_token(make_assertion(self.key, subject=self.name, audience=self.server.url, now=time.time()))
        assert response.status == 200, response.data
        self.token = response.json()["access_token"]

    def ask_token(self, assertion: str) -> urllib3.BaseHTTPResponse:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        fields = {"grant_type": "client_credentials", "client_assertion_type": kind, "client_assertion": assertion}
        return self.pool.request("POST", "/v1/tokens", fields=fields, encode_multipart=False)

    def decide(self, study: str, decision: str = "approve", *, key: SigningKey | None = None, **changes: Any) -> urllib3.BaseHTTPResponse:
        document = {"study": study, "site": self.name, "decision": decision, "by": "Dr A", "dataset": "d", "time": time.time()} | changes
        statement = sign_document(json.dumps(document).encode(), key or self.key, kind="decision")
        return self.call("POST", "/v1/decisions", {"statement": statement})

    def exchange(self, *answers: Answer | dict[str, Any], blobs: tuple[bytes, ...] = (), holding: tuple[str, ...] = (), wait: float = 10) -> Any:
        body = {
            "replies": [answer if isinstance(answer, dict) else answer.model_dump(mode="json") for answer in answers],
            "attachments": {ref_of(blob).sha256: attach(blob) for blob in blobs},
            "holding": list(holding),
            "revision": self.revision,
            "wait_seconds": wait,
        }
        answered = self.post("/v1/exchange", body)
        self.revision = answered["revision"]
        return answered

    def tasks_of(self, answered: Any) -> list[Task]:
        key = PublicKey.from_text(self.coordinator_key)
        return [Task.model_validate_json(open_document(text, key, kind="task")) for text in answered.get("tasks", ())]

    def wait_for_tasks(self, seconds: float = 10) -> list[Task]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tasks = self.tasks_of(self.exchange(wait=max(0.0, end - time.monotonic())))
            if tasks:
                return tasks
        raise AssertionError("no task came")


def update_of(site: str, round_number: int) -> dict[str, bytes]:
    """What a site answers in a round: the same bytes whenever it is asked."""
    rng = np.random.default_rng([ord(site[0]), round_number])
    return {"difference": tensor(w=rng.normal(size=3).astype(np.float32)), "weight": tensor(rows=np.array([10.0]))}


def answer_of(site: SiteClient, task: Task) -> tuple[Answer, tuple[bytes, ...]]:
    if task.stage == "preflight":
        check = Check(name="patients", passed=True, finding="enough")
        return Answer(task=task.id, attempt=task.attempt, site=site.name, checks=(check,)), ()
    sums = update_of(site.name, task.round_number)
    named = {name: ref_of(blob) for name, blob in sums.items()}
    return Answer(task=task.id, attempt=task.attempt, site=site.name, sums=named), tuple(sums.values())


@dataclass
class Hospital:
    """A site that takes part by itself, in a thread, and comes back when the coordinator does."""

    site: SiteClient
    pause: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        answers: list[Answer] = []
        blobs: tuple[bytes, ...] = ()
        while not self.ended.is_set():
            try:
                answered = self.site.exchange(*answers, blobs=blobs, wait=5)
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
                continue
            answers, blobs = [], ()
            for task in self.site.tasks_of(answered):
                time.sleep(self.pause)
                answer, more = answer_of(self.site, task)
                answers, blobs = [*answers, answer], (*blobs, *more)


def ref_of(data: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class Bytes:
    """A blob writer into memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data


def tensor(**arrays: np.ndarray[Any, Any]) -> bytes:
    writer = Bytes()
    write_tree(arrays, writer)  # type: ignore[arg-type]
    return bytes(writer.data)


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "mortality",
        "question": "Does the model predict death in hospital?",
        "purpose": "A test.",
        "ethics": "none needed: invented data",
        "principal_investigator": "Dr Test",
        "expires": "2099-01-01",
        "cohort": {"dataset": "d", "features": [{"name": "age"}], "target": {"name": "death"}, "standardise": "none"},
        "model": {"framework": "numpy", "name": "logistic_regression"},
        "method": {"name": "fedavg", "rounds": 2},
        "sites": {"minimum": 2},
        "evaluation": {"held_out": 0.0},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def package_of(roster: list[SiteClient], initial: BlobRef, **changes: Any) -> tuple[Package, str]:
    package = Package(study=study(**changes), method_version=1, initial=initial, roster={site.name: site.key.public.text for site in roster})
    return package, digest(package)


def submit(researcher: Client, roster: list[SiteClient], **changes: Any) -> str:
    initial = researcher.upload(tensor(w=np.zeros(3, np.float32)))
    package, name = package_of(roster, initial, **changes)
    assert researcher.post("/v1/studies", package.model_dump(mode="json"), 201)["digest"] == name
    return name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def state_of(researcher: Client, study: str) -> str:
    found: str = researcher.get(f"/v1/studies/{study}")["state"]
    return found


PASSWORD = "correct horse battery"


def person(server: Server, name: str, role: str) -> Client:
    server.command("user", "add", name, "--role", role, "--password-file", "-", input=PASSWORD)
    client = Client(server)
    token = client.post("/v1/sessions", {"user": name, "password": PASSWORD})["access_token"]
    client.token = token
    eventually(lambda: client.call("GET", "/v1/sites").status == 200)
    return client


def enrolled(server: Server, name: str) -> SiteClient:
    site = SiteClient(server, name=name)
    site.enrol(server.command("invite", name))
    site.login()
    return site


def eventually(check: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found
