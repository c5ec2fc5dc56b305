"""A crowd that waits for the same news."""

from __future__ import annotations

import asyncio

from aimer2.web.audience import Audience


def test_nobody_waits_for_ever_where_telling_is_broken_off() -> None:
    async def story() -> None:
        audience = Audience()
        waiting = [asyncio.create_task(audience.wait()) for _ in range(40)]
        await asyncio.sleep(0)
        telling = asyncio.create_task(audience.tell())
        await asyncio.sleep(0)
        assert not telling.done(), "a crowd is told a few at a time"
        telling.cancel()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)

    asyncio.run(story())
