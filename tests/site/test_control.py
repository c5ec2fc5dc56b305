from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aimer2.core.errors import Conflict, NotFound
from aimer2.site.control import ask_agent, serve_control
from aimer2.site.folder import SiteFolder, agent_lock, existing


async def command(asked: dict[str, Any]) -> dict[str, Any]:
    if asked["command"] == "fail":
        raise NotFound("No such study.", remedy="Look.")
    return {"heard": asked["command"]}


def test_a_command_reaches_the_agent_and_its_problem_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = SiteFolder(tmp_path / ("deep" * 30))
    folder.path.mkdir()

    async def run() -> None:
        async with serve_control(folder, command):
            assert folder.socket.stat().st_mode & 0o077 == 0
            assert await asyncio.to_thread(ask_agent, folder, {"command": "hello"}) == {"heard": "hello"}
            with pytest.raises(NotFound, match="No such study") as raised:
                await asyncio.to_thread(ask_agent, folder, {"command": "fail"})
            assert raised.value.advice == "Look."
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/cwd/{folder.socket.name}")
            writer.write(b"[1]\n")
            assert json.loads(await reader.readline())["problem"]["code"] == "bad-input"
            writer.close()

    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.path)
        asyncio.run(run())
    assert Path.cwd() == before
    assert ask_agent(folder, {"command": "hello"}) is None


def test_one_agent_per_folder(tmp_path: Path) -> None:
    folder = SiteFolder(tmp_path)
    with agent_lock(folder), pytest.raises(Conflict), agent_lock(folder):
        pass
    with agent_lock(folder):
        pass


def test_a_folder_without_a_site_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no site"):
        existing(tmp_path)
