"""Coordinators that end with their tests: one that all share, and more for tests that kill it."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

# Tests are imported one by one (importlib mode), so what they share is found by its path.
sys.path.insert(0, str(Path(__file__).parent))

from one_loop import offer, open_coordinator
from serving import Client, Hospital, Server, SiteClient, enrolled, free_port, person

from aimer2.coordinator.coordinator import Coordinator


def make_servers(folder: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*options: str) -> Server:
        server = Server(folder / f"coordinator-{len(made)}", free_port())
        server.command("init", "--port", str(server.port), *options)
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    yield from make_servers(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared by all tests that leave it as it was; each with sites of its own."""
    for make in make_servers(tmp_path_factory.mktemp("shared")):
        made = make()
        made.start()
        yield made
        assert made.stop() == 0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of one file's tests alone, which may freeze and kill it."""
    for make in make_servers(tmp_path_factory.mktemp("own")):
        made = make()
        made.start()
        yield made


@pytest.fixture(scope="session")
def researcher(server: Server) -> Client:
    return person(server, "anna", "researcher")


@pytest.fixture(scope="session")
def new_name() -> Callable[[str], str]:
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture
def sites(server: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(server, new_name(name)) for name in ("charite", "heidelberg")]


@pytest.fixture
def three(server: Server, new_name: Callable[[str], str]) -> list[SiteClient]:
    return [enrolled(server, new_name(name)) for name in ("a", "b", "c")]


@pytest.fixture
def hospitals() -> Iterator[Callable[..., None]]:
    """Lets sites take part by themselves until the test ends."""
    working: list[Hospital] = []

    def work(roster: list[SiteClient], pause: float = 0.0) -> None:
        for site in roster:
            working.append(Hospital(site, pause))
            working[-1].start()

    yield work
    for hospital in working:
        hospital.ended.set()


def unavailable(message: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of our own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        unavailable("no PostgreSQL server: install the package `postgresql`")
    programs = found[-1].parent
    try:
        owner = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    except KeyError:
        unavailable("PostgreSQL does not run as root, and there is no user postgres")
    # Not pytest's folder: that is closed to other users, and the server is one.
    folder = Path(tempfile.mkdtemp(prefix="aimer2-postgresql-"))
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data, port = folder / "data", free_port()
    user = None if owner is None else "postgres"

    def run(*arguments: str) -> None:
        ended = subprocess.run(arguments, check=False, user=user, capture_output=True, cwd=folder, timeout=60, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    run(str(programs / "initdb"), "-D", str(data), "-U", "aimer2", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run(str(programs / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
    yield f"postgresql+psycopg://aimer2@127.0.0.1:{port}/postgres"
    run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Runs a test inside a coordinator's loop, with these sites in a running study."""

    def start(test: Callable[[Coordinator], Coroutine[Any, Any, None]], *sites: str) -> None:
        async def whole() -> None:
            coordinator = open_coordinator(tmp_path / "coordinator")
            offer(coordinator, list(sites))
            await coordinator.start()
            await asyncio.wait_for(test(coordinator), 30)
            await coordinator.close()

        asyncio.run(whole())

    return start
