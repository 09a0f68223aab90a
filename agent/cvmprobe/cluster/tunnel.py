"""A port on this machine's loopback that leads to a port of a pod, as ``kubectl port-forward`` makes it.

    client ── TCP ──> 127.0.0.1:n ── websocket to the API server, on to the kubelet ──> 127.0.0.1:port in the pod

Each connection has a websocket of its own. Channel 0 of it carries the bytes, channel 1 one line from the kubelet
where it cannot serve; each begins with a message that holds the port. There is no half-close in that protocol: a
client that has said all is given what still comes, until that pauses.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Final, Self

import aiohttp

from cvmprobe.cluster.kubeconfig import Kubeconfig
from cvmprobe.errors import DeniedError, UnreachableError, WireError

__all__ = ["Tunnel"]

_CHUNK: Final = 64 * 1024
_DATA: Final = 0
_ERROR: Final = 1
_PAUSE_S: Final = 2.0


class Tunnel(AbstractAsyncContextManager["Tunnel"]):
    """Forwards connections within its block. Raises nothing itself; ``trouble`` tells why a connection was closed."""

    def __init__(self, kubeconfig: Kubeconfig, pod: str, port: int) -> None:
        self.trouble: WireError | None = None  # of the newest connection; None while all is well
        self._kubeconfig = kubeconfig
        self._pod = pod
        self._port = port
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen; the way is tried by the first connection."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        relays = tuple(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def address(self) -> str:
        """host:port to dial."""
        if self._server is None:
            raise RuntimeError("the tunnel is used as a context")
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))  # a task of our own may be cancelled without a word
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._kubeconfig.forward(self._pod, self._port) as far:
                self.trouble = None
                await self._join(reader, writer, far)
        except (DeniedError, UnreachableError) as error:
            self.trouble = error
        except OSError:
            pass  # the client is gone
        finally:
            writer.close()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: aiohttp.ClientWebSocketResponse
    ) -> None:
        """Carry bytes both ways until the pod has ended, or the client has, and the pod pauses."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as patience:  # without end until the client has said all
                sending = asyncio.create_task(_send(reader, far, patience))
                try:
                    await self._receive(far, writer, patience)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)

    async def _receive(
        self, far: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter, patience: asyncio.Timeout
    ) -> None:
        begun: set[int] = set()
        async for message in far:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                break
            channel, content = message.data[0], message.data[1:]
            if channel not in begun:
                begun.add(channel)
            elif channel == _ERROR:
                raise UnreachableError(f"{self._what()}: {_reason(content.decode(errors='replace'))}")
            else:
                writer.write(content)
                await writer.drain()
            if patience.when() is not None:
                _wait_no_longer(patience)
        if patience.when() is None:
            raise UnreachableError(f"{self._what()} ended: the pod, or the way to it, is gone")

    def _what(self) -> str:
        return f"port-forward to port {self._port} of pod {self._kubeconfig.namespace}/{self._pod}"


def _reason(said: str) -> str:
    """Say what the kubelet says, without the ways it tried where simply nobody listens."""
    return "connection refused; is it still starting?" if "connection refused" in said else said


async def _send(reader: asyncio.StreamReader, far: aiohttp.ClientWebSocketResponse, patience: asyncio.Timeout) -> None:
    """Carry what the client says until it has said all; when the pod is gone, who receives will tell."""
    with suppress(OSError, aiohttp.ClientError):
        while data := await _read(reader):
            await far.send_bytes(bytes((_DATA,)) + data)
        _wait_no_longer(patience)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except OSError:  # a client that went away has said all, too
        return b""


def _wait_no_longer(patience: asyncio.Timeout) -> None:
    patience.reschedule(asyncio.get_running_loop().time() + _PAUSE_S)
