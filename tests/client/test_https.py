"""HTTP/1.1 over TLS against a server that says exactly what a test tells it to."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from aimer2.client.https import Https, NotHttp, Request, Trust
from aimer2.identity.certificates import fingerprint, make_certificate

BODY = bytes(range(256)) * 1000
LONG = bytes(range(251)) * 10_000
FRAMES = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n" + BODY,
    "chunks": b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3e7f9;note=1\r\n"
    + BODY[:255_993]
    + b"\r\n7\r\n"
    + BODY[255_993:]
    + b"\r\n0\r\nT: x\r\n\r\n",
    "the end": b"HTTP/1.0 200 OK\r\nServer: a\r\nserver:b\r\n\r\n" + BODY,
    "later": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:256000\r\n\r\n" + BODY,
}


class Server:
    """Gives the next of its answers to each request, on as many connections as come; a connection ends where its answer has no other end."""

    def __init__(self, context: ssl.SSLContext, pin: str) -> None:
        self._context = context
        self._door = socket.create_server(("127.0.0.1", 0))
        self.fingerprint = pin
        self.answers: list[bytes] = []
        self.asked: list[bytes] = []
        self.connections = 0
        self.step = 1 << 20
        self.closes_after = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._door.getsockname()[1]}"

    def close(self) -> None:
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._door.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as line:
            self.connections += 1
            while head := self._head(line):
                self.asked.append(head)
                answer = self.answers.pop(0)
                for start in range(0, len(answer), self.step):
                    line.sendall(answer[start : start + self.step])
                if self.closes_after or (b"ength" not in answer and b"chunked" not in answer):
                    return

    def _head(self, line: ssl.SSLSocket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            more = line.recv(65536)
            if not more:
                return b""
            head += more
        return head


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = make_certificate(["127.0.0.1"], now=time.time())
    (folder / "key.pem").write_bytes(key)
    (folder / "certificate.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, fingerprint(certificate)


@pytest.fixture
def server(certified: tuple[ssl.SSLContext, str]) -> Iterator[Server]:
    made = Server(*certified)
    yield made
    made.close()


@pytest.fixture
def https(server: Server) -> Https:
    return Https(server.url, Trust(server.fingerprint))


def get(https: Https) -> bytes:
    with https.ask(Request("GET", "/x", {})) as answer:
        return answer.read()


def piecewise(https: Https) -> bytes:
    buffer, body = bytearray(10_007), b""
    with https.ask(Request("GET", "/x", {})) as answer:
        while got := answer.read_into(memoryview(buffer)):
            body += buffer[:got]
    return body


@pytest.mark.parametrize("ask", [get, piecewise])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("step", [1 << 20, 1021])
def test_a_body_ends_where_its_head_says(server: Server, https: Https, ask: Callable[[Https], bytes], frame: str, step: int) -> None:
    server.step = step
    server.answers = [FRAMES[frame]] * 2
    assert ask(https) == BODY and ask(https) == BODY
    assert server.connections == (2 if frame == "the end" else 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n123\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n12\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n12\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n2\r\n12\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n123",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 2\r\n\r\n12",
        b"HTTP/2 200\r\nContent-Length: 2\r\n\r\n12",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"X" * 100_000,
        b"",
    ],
)
def test_what_is_no_answer_or_is_cut_off_is_not_taken(server: Server, https: Https, answer: bytes) -> None:
    server.closes_after = True
    server.answers = [answer, answer]
    for ask in (get, piecewise):
        with pytest.raises(NotHttp):
            ask(https)


def test_a_long_body_is_whole(server: Server, https: Https) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG) + LONG] * 2
    assert get(https) == LONG and piecewise(https) == LONG and server.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(server: Server, https: Https) -> None:
    server.closes_after = True
    server.answers = [FRAMES["a length"]] * 2
    assert get(https) == BODY
    time.sleep(0.05)
    assert get(https) == BODY and server.connections == 2


def test_bytes_behind_an_answer_are_no_answer_to_the_next_request(server: Server, https: Https) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" + smuggled, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"]
    assert get(https) == b"good" and get(https) == b"next"


def test_what_is_left_of_an_answer_is_not_the_next_one(server: Server, https: Https) -> None:
    server.answers = [FRAMES["a length"], FRAMES["a length"]]
    with https.ask(Request("GET", "/x", {})) as answer:
        assert answer.status == 200
    assert get(https) == BODY and server.connections == 1


def test_an_answer_that_says_close_ends_its_connection(server: Server, https: Https) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n12"] * 2
    assert get(https) == get(https) == b"12"
    assert server.connections == 2


def test_answers_without_a_body_need_no_length(server: Server, https: Https) -> None:
    server.answers = [b"HTTP/1.1 204 No length\r\n\r\n", b"HTTP/1.1 404 Gone\r\nContent-Length: 99\r\nX-A: 1\r\nX-a:2\r\n\r\n", FRAMES["a length"]]
    with https.ask(Request("POST", "/x", {}, b"told")) as answer:
        assert answer.read() == b""
    with https.ask(Request("HEAD", "/x", {})) as answer:
        assert (answer.status, answer.read(), answer.headers["x-a"]) == (404, b"", "1, 2")
    assert get(https) == BODY and server.connections == 1


def test_a_request_is_written_as_rfc_9112_has_it(server: Server, https: Https) -> None:
    server.answers = [b"HTTP/1.1 204 No length\r\n\r\n"] * 2
    for body in (b"told", [memoryview(b"to"), memoryview(b"ld")]):
        headers = {"A": "b"} if isinstance(body, bytes) else {"A": "b", "Content-Length": "4"}
        with https.ask(Request("PUT", "/x?y=1", headers, body)):
            pass
    host = server.url.removeprefix("https://").encode()
    for asked in server.asked:
        first, *rest = asked.split(b"\r\n\r\n")[0].split(b"\r\n")
        assert first == b"PUT /x?y=1 HTTP/1.1" and {b"Host: " + host, b"A: b", b"Content-Length: 4"} <= set(rest)


@pytest.mark.parametrize("value", ["a\r\nEvil: 1", "a\nb", "\u2028", "é"])
def test_no_header_can_become_two(server: Server, https: Https, value: str) -> None:
    with pytest.raises(NotHttp), https.ask(Request("GET", "/x", {"Authorization": value})):
        pass
    assert not server.asked


def test_silence_counts_as_broken(server: Server, https: Https) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12"]
    with pytest.raises(TimeoutError), https.ask(Request("GET", "/x", {}, silence=0.1)) as answer:
        answer.read()
