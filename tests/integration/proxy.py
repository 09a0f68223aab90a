"""A TCP proxy that misbehaves on demand: it delays, splits, cuts, stalls, and forgets connections."""

import asyncio
import socket
import struct
from typing import Self


class Proxy:
    """Forwards 127.0.0.1:``port`` to 127.0.0.1:``target``; every attribute may be changed at any time.

    ``delay_s`` holds each chunk back, ``chunk_bytes`` splits what is forwarded, ``accepting`` False resets new
    connections. ``stall`` stops forwarding until ``resume``; ``cut`` resets every connection; ``freeze`` leaves the
    present connections open for ever and forwards nothing more on them, as a peer that vanished does.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0
        self.chunk_bytes = 65_536
        self.accepting = True
        self.accepted = 0
        self.forwarded_bytes = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def stall(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for link in tuple(self._links):
            link.reset()

    def cut_after(self, count: int) -> None:
        """Reset each present connection once it has forwarded ``count`` bytes more, both ways together."""
        for link in self._links:
            link.left_bytes = count

    def freeze(self) -> None:
        for link in self._links:
            link.frozen = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        if not self.accepting:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, far_writer), self._pump(link, far_reader, writer))
        except OSError:
            pass
        finally:
            link.reset()
            self._links.discard(link)

    async def _pump(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._flowing.wait()
            chunk = await reader.read(self.chunk_bytes)
            await self._flowing.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if not chunk:
                if not link.frozen:
                    link.reset()
                return
            if link.frozen:
                continue
            writer.write(chunk[: link.left_bytes])
            await writer.drain()
            self.forwarded_bytes += len(chunk)
            if link.left_bytes is not None:
                link.left_bytes -= len(chunk)
                if link.left_bytes <= 0:
                    link.reset()
                    return


class _Link:
    """The two connections of one forwarded one."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._writers = (near, far)
        self.frozen = False
        self.left_bytes: int | None = None

    def reset(self) -> None:
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, so that the other side learns of it at once."""
    if writer.is_closing():
        return
    peer = writer.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
