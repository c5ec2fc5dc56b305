"""One coordinator for the tests of pages, and people who have logged in there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Tests are imported one by one (importlib mode), so what they share is found by its path.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "coordinator"))

from reading import Person, Reader
from serving import Server, SiteClient, enrolled, free_port, person


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("pages") / "coordinator", free_port())
    made.command("init", "--port", str(made.port))
    made.start()
    yield made
    assert made.stop() == 0


@pytest.fixture(scope="session")
def people(server: Server) -> Callable[[str, str], Person]:
    """Somebody of this name and role, at the API and in a browser."""
    known: dict[str, Person] = {}

    def of(name: str, role: str) -> Person:
        if name not in known:
            known[name] = Person(person(server, name, role), Reader(server))
            assert known[name].reader.log_in(name).status == 303
        return known[name]

    return of


@pytest.fixture(scope="session")
def anna(people: Callable[[str, str], Person]) -> Person:
    return people("anna", "researcher")


@pytest.fixture(scope="session")
def three(server: Server) -> list[SiteClient]:
    return [enrolled(server, name) for name in ("berlin", "bonn", "bremen")]
