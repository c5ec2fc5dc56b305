"""What anybody may do without a log-in, begin one by OpenID, neither fills the database nor holds up the coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ManualClock
from sqlalchemy import insert, select

from aimer2.audit.log import AuditLog
from aimer2.coordinator.openid import MOST_PENDING, OpenId, remember
from aimer2.coordinator.records import Records
from aimer2.coordinator.settings import Folder, OpenIdSettings, Settings
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.migrate import migrate
from aimer2.coordinator.store.schema import openid_logins
from aimer2.core.errors import Unreachable
from aimer2.identity.keys import SigningKey
from aimer2.identity.openid import Started


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[OpenId, ManualClock, list[int], Database]]:
    """The coordinator's half in front of a provider that hangs up; how often that was asked."""
    asked: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, (_, port) = listener.accept()
                asked.append(port)
                connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    openid = OpenIdSettings(issuer=f"https://127.0.0.1:{listener.getsockname()[1]}", client_id="aimer2", client_secret="secret")
    database, clock = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}"), ManualClock()
    migrate(database)
    records = Records(AuditLog(tmp_path / "audit.jsonl", SigningKey.generate(), clock))
    settings = Settings(name="Test", url="https://coordinator.test", openid=openid)
    yield OpenId(Folder(tmp_path), settings, database, records, clock), clock, asked, database
    database.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_provider_that_does_not_answer_is_asked_once_for_all_who_wait(silent: tuple[OpenId, ManualClock, list[int], Database]) -> None:
    openid, clock, asked, _ = silent

    async def many() -> int:
        before = len(asked)
        said = await asyncio.gather(*(openid.start("/") for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in said} == {Unreachable} and len({str(one) for one in said}) == 1
        return len(asked) - before

    async def story() -> None:
        first = await many()
        assert 1 <= first < 20, "one asking, with what the pool tries again"
        assert await many() == 0
        clock.seconds += 11
        assert await many() == first

    asyncio.run(story())


def test_log_ins_that_nobody_ends_do_not_fill_the_database(silent: tuple[OpenId, ManualClock, list[int], Database]) -> None:
    database, pending = silent[3], {"nonce": "n", "verifier": "v", "target": "/", "expires": 600.0}
    rows = [{"state_hash": str(number), **pending} for number in range(MOST_PENDING)]
    database.write_now(lambda connection: connection.execute(insert(openid_logins), rows))
    with pytest.raises(Unreachable, match="Too many"):
        database.write_now(remember, Started.new(), "/", 599.0)
    database.write_now(remember, Started.new(), "/", 601.0)
    assert len(database.read_now(lambda connection: connection.execute(select(openid_logins)).all())) == 1
