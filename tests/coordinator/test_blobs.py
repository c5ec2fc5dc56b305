"""Blobs on their way in and out: interrupted, cut, changed, too large, somebody else's."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from serving import Client, Server, SiteClient, enrolled, person, ref_of, submit, tensor

from aimer2.coordinator.http.files import parse_range

DATA = os.urandom(3_000_000)


def put(client: Client, data: bytes, part: slice, *, sha256: str | None = None, length: int | None = None, offset: int | None = None):
    start = (part.start or 0) if offset is None else offset
    path = f"/v1/blobs/{sha256 or ref_of(data).sha256}"
    return client.call("PUT", path, data[part], Upload_Offset=str(start), Upload_Length=str(len(data) if length is None else length))


def test_an_upload_goes_on_where_it_stopped(researcher: Client) -> None:
    data = os.urandom(3_000_000)
    path = f"/v1/blobs/{ref_of(data).sha256}"
    head = researcher.call("HEAD", path)
    assert (head.status, head.headers["Upload-Offset"]) == (404, "0")
    assert put(researcher, data, slice(0, 1_500_000)).status == 202
    assert researcher.call("HEAD", path).headers["Upload-Offset"] == "1500000"
    wrong = put(researcher, data, slice(1_600_000, None))
    assert (wrong.status, wrong.headers["Upload-Offset"]) == (409, "1500000")
    assert wrong.json()["code"] == "conflict"
    assert put(researcher, data, slice(1_500_000, None)).status == 201
    head = researcher.call("HEAD", path)
    assert (head.status, head.headers["Content-Length"]) == (200, "3000000")
    assert researcher.call("GET", path).data == data


def test_a_cut_connection_loses_no_byte_that_came(server: Server, researcher: Client) -> None:
    data = os.urandom(2_000_000)
    path = f"/v1/blobs/{ref_of(data).sha256}"
    context = ssl.create_default_context(cafile=str(server.folder / "tls" / "certificate.pem"))
    with socket.create_connection(("127.0.0.1", server.port)) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as line:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {researcher.token}\r\nUpload-Offset: 0\r\n"
        line.sendall(f"{head}Upload-Length: {len(data)}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:1_200_000])
        time.sleep(0.3)
    offset = 0
    for _ in range(100):
        offset = int(researcher.call("HEAD", path).headers["Upload-Offset"])
        if offset:
            break
        time.sleep(0.02)
    assert offset == 1_200_000
    assert put(researcher, data, slice(offset, None)).status == 201


def test_changed_bytes_are_refused_and_forgotten(researcher: Client) -> None:
    data = os.urandom(100_000)
    name = ref_of(data).sha256
    answer = put(researcher, bytes(len(data)), slice(None), sha256=name)
    assert (answer.status, answer.json()["code"]) == (409, "tampered")
    assert researcher.call("HEAD", f"/v1/blobs/{name}").headers["Upload-Offset"] == "0"
    assert put(researcher, data, slice(None)).status == 201


def test_more_than_announced_or_allowed_is_refused(make_server: Callable[..., Server], researcher: Client) -> None:
    data = os.urandom(5000)
    assert put(researcher, data, slice(None), length=4000).status == 409
    server = make_server()
    settings = server.folder / "coordinator.toml"
    settings.write_text(settings.read_text().replace(f"max_blob_bytes = {8 << 30}", "max_blob_bytes = 10000"))
    server.start()
    anna = person(server, "anna", "researcher")
    assert put(anna, bytes(10_000), slice(None)).status == 201
    answer = put(anna, bytes(10_001), slice(None))
    assert (answer.status, answer.json()["code"]) == (413, "too-large")


def test_a_full_disk_keeps_what_came(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.start()
    anna = person(server, "anna", "researcher")
    assert server.process is not None
    # A limit on the size of files stands for the full disk: the same error to whoever writes.
    subprocess.run(["prlimit", f"--pid={server.process.pid}", f"--fsize={2 << 20}:{resource.RLIM_INFINITY}"], check=True)
    answer = put(anna, DATA, slice(None))
    assert (answer.status, answer.json()["code"]) == (507, "out-of-resources")
    subprocess.run(["prlimit", f"--pid={server.process.pid}", "--fsize=unlimited"], check=True)
    offset = int(anna.call("HEAD", f"/v1/blobs/{ref_of(DATA).sha256}").headers["Upload-Offset"])
    assert offset >= 1 << 20
    assert put(anna, DATA, slice(offset, None)).status == 201


@pytest.mark.parametrize("size", [1000, 200_000])
def test_ranges(researcher: Client, size: int) -> None:
    data = os.urandom(size)
    path = f"/v1/blobs/{researcher.upload(data).sha256}"
    for text, part in (("bytes=0-9", data[:10]), ("bytes=900-", data[900:]), ("bytes=-10", data[-10:]), ("bytes=10-99999999", data[10:])):
        answer = researcher.call("GET", path, Range=text)
        assert (answer.status, answer.data) == (206, part)
        assert answer.headers["Content-Range"].endswith(f"/{size}")
    answer = researcher.call("GET", path, Range=f"bytes={size}-")
    assert (answer.status, answer.headers["Content-Range"], answer.json()["status"]) == (416, f"bytes */{size}", 416)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=-20", (0, 10)),
        ("bytes=5-4", None),
        ("bytes=-0", None),
        ("bytes=1-2,4-5", None),
        ("items=1-2", None),
        ("bytes=-", None),
    ],
)
def test_one_range_of_ten_bytes(text: str, span: tuple[int, int] | None) -> None:
    assert parse_range(text, 10) == span


def test_a_blob_is_for_those_whom_it_concerns(server: Server, researcher: Client, sites: list[SiteClient], new_name: Callable[[str], str]) -> None:
    study = submit(researcher, sites)
    initial = researcher.get(f"/v1/studies/{study}/package")["initial"]["sha256"]
    stranger = enrolled(server, new_name("stranger"))
    assert sites[0].call("GET", f"/v1/blobs/{initial}").data == tensor(w=np.zeros(3, np.float32))
    assert stranger.call("GET", f"/v1/blobs/{initial}").status == 404
    assert stranger.call("HEAD", f"/v1/blobs/{initial}").status == 404
    assert Client(server).call("GET", f"/v1/blobs/{initial}").status == 401
    assert researcher.call("GET", "/v1/blobs/..%2f..%2fkeys").status in (400, 404)


def test_who_uploads_known_bytes_must_have_them(server: Server, researcher: Client, sites: list[SiteClient]) -> None:
    data = os.urandom(100_000)
    name = researcher.upload(data).sha256
    other = sites[0]
    assert other.call("GET", f"/v1/blobs/{name}").status == 404
    assert put(other, bytes(len(data)), slice(None), sha256=name).status == 409
    assert researcher.call("GET", f"/v1/blobs/{name}").data == data, "a liar spoils nothing"
    assert put(other, data, slice(None)).status == 201
    assert other.call("GET", f"/v1/blobs/{name}").data == data


def test_a_site_cannot_answer_with_another_sites_update(researcher: Client, sites: list[SiteClient]) -> None:
    study = submit(researcher, sites)
    for site in sites:
        site.decide(study)
    theirs = sites[1].upload(os.urandom(1000))
    (task,) = sites[0].wait_for_tasks()
    reply = {"kind": "answer", "task": task.id, "attempt": 1, "site": sites[0].name, "sums": {"x": theirs.model_dump()}}
    assert sites[0].post("/v1/exchange", {"replies": [reply]}, 409)["code"] == "conflict"


def test_three_uploads_at_once(researcher: Client) -> None:
    blobs = [os.urandom(5_000_000) for _ in range(3)]
    threads = [threading.Thread(target=researcher.upload, args=(blob,)) for blob in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [researcher.call("GET", f"/v1/blobs/{ref_of(blob).sha256}").data for blob in blobs] == blobs
