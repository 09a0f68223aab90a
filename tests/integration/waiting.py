"""Waiting on what another task, process or socket makes true."""

import asyncio


async def until(condition, within_s=20):
    """Wait until ``condition()`` holds; fails when it does not within the bound."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
