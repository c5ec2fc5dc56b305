"""The floor: a round over bare sockets with TLS 1.3 in plain Python. No HTTP, no identity, no database, nothing kept."""

from __future__ import annotations

import datetime
import multiprocessing
import resource
import socket
import ssl
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aimer2.identity.certificates import make_certificate

PIECE = 1 << 18
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Floor:
    seconds: float
    memory: float


def median_round(sites: int, size: int, rounds: int) -> Floor:
    """Measured in a process of its own, so that its memory is its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_coordinate, args=(theirs, sites, size, rounds))
    process.start()
    seconds, memory = ours.recv()
    process.join()
    return Floor(seconds, memory)


def _coordinate(told: Connection, sites: int, size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context, trust = _contexts(Path(folder))
        with socket.create_server(("127.0.0.1", 0)) as server:
            arguments = (server.getsockname()[1], size, rounds, trust)
            clients = [multiprocessing.get_context("spawn").Process(target=_site, args=arguments) for _ in range(sites)]
            for client in clients:
                client.start()
            connections = [context.wrap_socket(_plain(server.accept()[0]), server_side=True) for _ in clients]
        model, total = np.zeros(size, np.float32), np.zeros(size, np.float32)
        taken = []
        for _ in range(rounds):
            began, lock = time.perf_counter(), threading.Lock()
            total[:] = 0
            threads = [threading.Thread(target=_serve, args=(connection, model, total, lock, 1 / sites)) for connection in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            model, total = total, model
            taken.append(time.perf_counter() - began)
        for client in clients:
            client.join()
    told.send((statistics.median(taken[1:] or taken), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def _contexts(folder: Path) -> tuple[ssl.SSLContext, str]:
    key, certificate = make_certificate(["localhost"], now=datetime.datetime.now(datetime.UTC).timestamp())
    pem = folder / "both.pem"
    pem.write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, str(pem)


def _plain(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _site(port: int, size: int, rounds: int, trust: str) -> None:
    context = ssl.create_default_context(cafile=trust)
    context.check_hostname = False
    connection = context.wrap_socket(_plain(socket.create_connection(("127.0.0.1", port))))
    model = np.empty(size, np.float32)
    for _ in range(rounds):
        _fill(connection, model)
        np.add(model, np.float32(1), out=model)
        connection.sendall(model.data.cast("B"))


def _serve(connection: ssl.SSLSocket, model: Floats, total: Floats, lock: threading.Lock, weight: float) -> None:
    connection.sendall(model.data.cast("B"))
    piece = np.empty(min(PIECE, model.size), np.float32)
    for start in range(0, model.size, PIECE):
        part = piece[: model.size - start]
        _fill(connection, part)
        np.multiply(part, np.float32(weight), out=part)
        with lock:
            total[start : start + part.size] += part


def _fill(connection: ssl.SSLSocket, array: Floats) -> None:
    view, got = array.data.cast("B"), 0
    while got < len(view):
        got += connection.recv_into(view[got:])
