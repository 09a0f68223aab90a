"""The uplink ends when it is told to, even while the collector breaks off."""

import asyncio

import pytest

from cvmprobe.errors import UnreachableError
from cvmprobe.model.delivery import Welcome
from cvmprobe.wire.tls import ClientTls
from cvmprobe.wire.uplink import Uplink


class Breaking(Uplink):
    """An uplink whose connection breaks at the very moment it is cancelled."""

    def __init__(self):
        super().__init__(
            collector="127.0.0.1:1",
            tls=lambda: ClientTls(b"", "x"),
            token=lambda: "t",
            hello=None,
            spool=None,
            receive=None,
        )
        self.reading = asyncio.Event()
        self.broken = False

    async def _greet(self, call):
        return Welcome(0, 2_000)

    async def _read(self, call, patience_s, token):
        try:
            self.reading.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.broken:
                raise
            self.broken = True
            raise UnreachableError("broken") from None

    async def _write(self, call, acked):
        await asyncio.Event().wait()


async def test_a_cancel_that_meets_a_break_is_not_lost():
    uplink = Breaking()
    running = asyncio.create_task(uplink.run())
    await asyncio.wait_for(uplink.reading.wait(), 10)
    running.cancel()
    ended, _ = await asyncio.wait({running}, timeout=2)
    running.cancel()  # for good
    assert ended
    with pytest.raises(asyncio.CancelledError):
        await running
