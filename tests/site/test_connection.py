"""The site's HTTPS client against a server that breaks off, refuses and lies as networks do."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.client.https import proxy_of
from aimer2.core.clock import SystemClock
from aimer2.core.errors import ClockSkew, Conflict, NotApproved, NotAuthenticated, Tampered, Unreachable
from aimer2.core.task import BlobRef
from aimer2.identity.certificates import fingerprint, make_certificate
from aimer2.identity.keys import SigningKey
from aimer2.messages.wire import CoordinatorInfo, problem_of
from aimer2.site.connection import Connection
from aimer2.site.settings import CoordinatorAddress

DATA = bytes(range(256)) * 20_000
REF = BlobRef(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
KEY = SigningKey.generate()


class Server(ThreadingHTTPServer):
    """Behaves as told: ``cut`` breaks a body off after so many bytes, once; ``good`` is the token it takes."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        key, certificate = make_certificate(["127.0.0.1"], now=time.time())
        (folder / "key.pem").write_bytes(key)
        (folder / "certificate.pem").write_bytes(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.fingerprint = fingerprint(certificate)
        self.data, self.cut, self.ranges = DATA, 0, True
        self.seen: list[tuple[str, str]] = []
        self.tokens, self.good = 0, "token-1"
        self.uploaded = bytearray()
        self.skewed = False

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses the certificate is no news."""


class Answers(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def problem(self, error: Any) -> None:
        self.answer(error.status, problem_of(error).model_dump_json().encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.skewed:
            return self.problem(ClockSkew())
        self.server.tokens += 1
        self.answer(200, json.dumps({"access_token": f"token-{self.server.tokens}", "expires_in": 3600}).encode())

    def allowed(self) -> bool:
        self.server.seen.append((self.command, self.headers.get("Range", "")))
        if self.headers.get("Authorization") == f"Bearer {self.server.good}":
            return True
        self.problem(NotAuthenticated())
        return False

    def do_GET(self) -> None:
        if self.path == "/v1/coordinator":
            return self.answer(200, CoordinatorInfo(name="C", key=KEY.public.text, version="1", time=1.0).model_dump_json().encode())
        if not self.allowed():
            return None
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        body = self.server.data[start:]
        cut, self.server.cut = self.server.cut, 0
        if not cut:
            return self.answer(206 if start else 200, body)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()
        self.connection.close()
        self.close_connection = True
        return None

    def do_HEAD(self) -> None:
        if self.allowed():
            done = len(self.server.uploaded) == REF.size
            self.answer(200 if done else 404, b"", Upload_Offset=str(len(self.server.uploaded)))

    def do_PUT(self) -> None:
        if not self.allowed():
            return None
        if int(self.headers["Upload-Offset"]) != len(self.server.uploaded):
            self.rfile.read(int(self.headers["Content-Length"]))
            return self.problem(Conflict("The upload goes on from another byte."))
        cut, self.server.cut = self.server.cut, 0
        self.server.uploaded += self.rfile.read(cut or int(self.headers["Content-Length"]))
        if cut:
            self.connection.close()
            self.close_connection = True
            return None
        return self.answer(201, b"")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    serving = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    serving.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def connect(server: Server) -> Callable[..., Connection]:
    def make(**changes: Any) -> Connection:
        fields = {"url": server.url, "name": "C", "key": KEY.public.text, "fingerprint": server.fingerprint} | changes
        return Connection(CoordinatorAddress.model_validate(fields), "north", KEY, SystemClock())

    return make


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "blobs")


def test_only_the_pinned_certificate_is_talked_to(server: Server, connect: Callable[..., Connection]) -> None:
    assert connect().info().name == "C"
    with pytest.raises(NotAuthenticated, match="certificate"):
        connect(fingerprint="0" * 64).info()
    with pytest.raises(NotAuthenticated, match="certificate"):
        connect(fingerprint=None).info()
    assert not server.seen


def test_an_authority_of_ones_own_takes_the_place_of_the_pin(connect: Callable[..., Connection], tmp_path: Path) -> None:
    assert connect(fingerprint="0" * 64, ca_file=tmp_path / "certificate.pem").info().name == "C"


def test_a_download_goes_on_where_it_broke_off(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    connection = connect()
    server.cut = 3 << 20
    with pytest.raises(Unreachable):
        connection.fetch(REF, store)
    assert bytes(connection.fetch(REF, store).view()) == DATA
    got = [found for method, found in server.seen if method == "GET" and found]
    assert got and 0 < int(got[-1][6:-1]) <= 3 << 20
    count = len(server.seen)
    connection.fetch(REF, store)
    assert len(server.seen) == count


def test_a_download_starts_anew_where_ranges_are_not_answered(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    connection = connect()
    server.cut = 3 << 20
    with pytest.raises(Unreachable):
        connection.fetch(REF, store)
    server.ranges = False
    assert bytes(connection.fetch(REF, store).view()) == DATA


def test_other_bytes_than_announced_are_not_taken(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    connection = connect()
    server.data = DATA[:-1] + b"x"
    with pytest.raises(Tampered):
        connection.fetch(REF, store)
    assert REF not in store
    server.data = DATA
    assert bytes(connection.fetch(REF, store).view()) == DATA


def test_an_upload_goes_on_where_it_broke_off_with_the_stored_bytes(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    store.put(DATA)
    connection = connect()
    server.cut = 2 << 20
    with pytest.raises(Unreachable):
        connection.put(store.open(REF), lambda: False)
    assert len(server.uploaded) == 2 << 20
    connection.put(store.open(REF), lambda: False)
    assert bytes(server.uploaded) == DATA
    connection.put(store.open(REF), lambda: False)
    assert [method for method, _ in server.seen] == ["PUT", "HEAD", "PUT", "HEAD"]


def test_an_upload_goes_on_after_a_restart(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    store.put(DATA)
    server.cut = 2 << 20
    with pytest.raises(Unreachable):
        connect().put(store.open(REF), lambda: False)
    server.good = "token-2"
    restarted = connect()
    with pytest.raises(Unreachable, match="goes on"):
        restarted.put(store.open(REF), lambda: False)
    assert len(server.uploaded) == 2 << 20
    restarted.put(store.open(REF), lambda: False)
    assert bytes(server.uploaded) == DATA


def test_a_withdrawn_upload_stops_in_the_middle(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    store.put(DATA)
    asked = iter([False, False, True])
    with pytest.raises(NotApproved):
        connect().put(store.open(REF), lambda: next(asked))
    assert len(server.uploaded) < REF.size


def test_a_token_that_is_refused_is_replaced_once(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    connection = connect()
    connection.fetch(REF, store)
    server.good = "token-2"
    store.delete(REF)
    connection.fetch(REF, store)
    assert server.tokens == 2
    server.good = "another"
    store.delete(REF)
    with pytest.raises(NotAuthenticated):
        connection.fetch(REF, store)
    assert server.tokens == 3


def test_a_wrong_clock_is_told_with_both_times(server: Server, connect: Callable[..., Connection], store: FolderStore) -> None:
    server.skewed = True
    with pytest.raises(ClockSkew, match=r"clock says .*Z; the coordinator's .*Z"):
        connect().fetch(REF, store)


def test_nobody_there_is_unreachable(connect: Callable[..., Connection], server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable):
        connect(url=f"https://127.0.0.1:{port}").info()


def test_the_hospitals_proxy_is_used_unless_excepted(server: Server, connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=_tunnel, args=(proxy, asked), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        assert connect().info().name == "C"
        assert [line.split()[:2] for line in asked] == [["CONNECT", server.url.removeprefix("https://")]]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert proxy_of(server.url) is None
        assert connect().info().name == "C" and len(asked) == 1


def _tunnel(proxy: socket.socket, asked: list[str]) -> None:
    """A proxy that carries one CONNECT."""
    near, _ = proxy.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        head += near.recv(4096)
    line = head.split(b"\r\n")[0].decode()
    asked.append(line)
    host, _, port = line.split()[1].partition(":")
    far = socket.create_connection((host, int(port)))
    near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    threading.Thread(target=_pump, args=(far, near), daemon=True).start()
    _pump(near, far)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return
