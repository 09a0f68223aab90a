"""The agent process from its first line to its Bye: puts the parts together, and takes them apart in order.

start: environment → responder → outbox → supervisor → uplink (what earlier starts left goes first)
end:   probes stop → the rest is numbered and spooled → sent and acknowledged, for a bounded time → Bye
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import cvmprobe
from cvmprobe.config.agent import AgentSettings
from cvmprobe.errors import ConfigError
from cvmprobe.model.delivery import Bye, Hello, Welcome
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.query import Attachment, NodeStatus
from cvmprobe.node.leftover import deliver, leftovers
from cvmprobe.node.live import Live
from cvmprobe.node.outbox import Outbox
from cvmprobe.node.own_service import OwnService
from cvmprobe.node.spool import SUFFIX
from cvmprobe.node.supervise import Supervisor
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.environment import environment
from cvmprobe.probes.responder import Responder
from cvmprobe.wire.codec.spooled import pack_batch, unpack_batch
from cvmprobe.wire.handler import CollectorMessage
from cvmprobe.wire.tls import ClientTls
from cvmprobe.wire.uplink import Outbox as Sendable
from cvmprobe.wire.uplink import Uplink

__all__ = ["Daemon", "run"]

_LOG: Final = logging.getLogger(__name__)
_TICK_S: Final = 0.25
_STOP_S: Final = 3.0  # for all probes to end
_PATIENCE_S: Final = 30.0  # for one leftover, while the present start waits
_AGAIN_S: Final = 600.0  # until leftovers that did not get through are tried again


class Daemon:
    """One start of one agent. Make it in a running event loop, then ``run`` it once. Raises ConfigError."""

    def __init__(self, settings: AgentSettings, responder: Responder, hello: Hello) -> None:
        self._settings = settings
        self._spools = settings.state_dir / "spool"
        self._attached_mark = settings.state_dir / "attached"  # for a startup probe: there once a collector let us in
        with suppress(OSError):
            self._attached_mark.unlink(missing_ok=True)
        self._live = Live(self._status)
        self._service: OwnService | None = None
        if settings.probe_service and settings.role is not Role.HOST:
            self._service = OwnService(self._live, settings.probe_service_port, settings.probe_service_token_file)
            hello = replace(hello, probe_service_port=self._service.port)
        self._hello = hello
        self._outbox = Outbox(
            self._spools / f"{hello.start_id}{SUFFIX}",
            hello,
            pack=pack_batch,
            unpack=unpack_batch,
            spool_bytes=settings.spool_bytes,
            memory_bytes=settings.memory_bytes,
            sample_bytes=settings.sample_bytes,
        )
        self._supervisor = Supervisor(
            settings,
            outbox=self._outbox,
            live=self._live,
            responder=responder,
            prepare=prepare,
            post=partial(_post, asyncio.get_running_loop()),
        )
        self._uplink = self._uplink_for(hello, self._outbox, self._receive)
        self._outbox.wake = self._uplink.wake
        self._delivering = False
        self._ending = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``, then drain. An error of our own ends it too, after the drain, and is raised."""
        ticking = asyncio.create_task(self._keep_ticking(), name="tick")
        attached = asyncio.create_task(self._stay_attached(), name="uplink")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        serving = asyncio.create_task(self._service.run(), name="service") if self._service else stopping
        _LOG.info("agent started endpoint=%s start=%s", self._hello.endpoint, self._hello.start_id)
        try:
            await asyncio.wait({ticking, attached, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(attached)
        finally:
            for task in (ticking, attached, stopping, serving):
                task.cancel()
            ends = await asyncio.gather(ticking, attached, return_exceptions=True)
            await asyncio.gather(stopping, serving, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _keep_ticking(self) -> None:
        while True:
            self._supervisor.tick()
            await asyncio.sleep(_TICK_S)

    async def _stay_attached(self) -> None:
        """Deliver what was left, then attach; ends after ``Uplink.finish``."""
        while True:
            left = await self._deliver_leftovers()
            running = asyncio.create_task(self._uplink.run())
            try:
                await asyncio.wait({running}, timeout=_AGAIN_S if left else None)
                while not running.done() and (self._ending or not self._supervisor.free):
                    await asyncio.wait({running}, timeout=1.0)
                if running.done():
                    return running.result()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _deliver_leftovers(self) -> bool:
        """Send what earlier starts left; returns whether something of it is still there."""
        left = False
        found = leftovers(self._spools, self._hello.start_id, self._settings.spool_bytes, unpack_batch)
        self._delivering = True
        for leftover in found:
            start = leftover.hello.start_id
            uplink = self._uplink_for(leftover.hello, leftover, _not_for_the_dead)
            try:
                delivered = await deliver(leftover, uplink, _PATIENCE_S)
            except BaseException:
                leftover.close()
                raise
            if delivered:
                _LOG.info("leftover delivered start=%s", start)
                leftover.remove()
            else:
                _LOG.warning("leftover kept start=%s: %s", start, uplink.trouble or "not acknowledged in time")
                leftover.close()
                left = True
        self._delivering = False
        return left

    async def _drain(self, attached: asyncio.Task[None]) -> None:
        """Stop, number, spool, send and wait, each for a bounded time."""
        self._ending = True
        self._supervisor.close()
        until = time.monotonic() + _STOP_S
        while not self._supervisor.idle and time.monotonic() < until:  # noqa: ASYNC110 - derived, nobody signals it
            await asyncio.sleep(0.02)
        self._supervisor.abandon()
        self._outbox.end()
        self._uplink.finish(Bye(self._outbox.last_seq))
        self._uplink.wake()
        if self._delivering:  # what earlier starts left has waited before, and can wait again
            attached.cancel()
            await asyncio.gather(attached, return_exceptions=True)
            attached = asyncio.create_task(self._uplink.run())
        await asyncio.wait({attached}, timeout=self._settings.drain_ms / 1_000)
        delivered = attached.done() and not attached.cancelled() and attached.exception() is None
        attached.cancel()
        if delivered:
            _LOG.info("agent ended, all of %d batches acknowledged", self._outbox.last_seq)
        else:
            _LOG.warning("agent ended, %d batches wait in %s", self._outbox.pending, self._spools)
        self._outbox.close(delivered=delivered)

    def _receive(self, message: CollectorMessage) -> None:
        if isinstance(message, Welcome):
            with suppress(OSError):  # a state directory that cannot be written is said by the outbox
                self._attached_mark.touch()
            if self._service is not None:
                self._service.renew(message)
        self._supervisor.receive(message)

    def _uplink_for(self, hello: Hello, spool: Sendable, receive: Callable[[CollectorMessage], None]) -> Uplink:
        return Uplink(
            collector=self._settings.collector,
            tls=self._tls,
            token=self._token,
            hello=lambda: hello,
            spool=spool,
            receive=receive,
        )

    def _tls(self) -> ClientTls:
        host = self._settings.collector.rpartition(":")[0].strip("[]")
        ca_pem = _read("ca_file", self._settings.ca_file)
        return ClientTls(ca_pem, self._settings.server_name or host)

    def _token(self) -> str:
        return _read("token_file", self._settings.token_file).decode(errors="replace").strip()

    def _status(self) -> NodeStatus:
        outbox = self._outbox
        return NodeStatus(
            endpoint=self._hello.endpoint,
            attachment=Attachment.ATTACHED if self._uplink.attached else Attachment.LOST,
            version=self._hello.version,
            start_id=self._hello.start_id,
            numbered=outbox.last_seq,
            stored=outbox.last_seq - outbox.pending - outbox.lost,
            pending=outbox.pending,
            lost=outbox.lost,
            probe_service_port=self._hello.probe_service_port,
            environment=self._hello.environment,
        )


async def run(settings: AgentSettings, stop: asyncio.Event) -> None:
    """Run an agent of this node until ``stop``. Raises ConfigError or EngineError when it cannot begin."""
    found = await asyncio.to_thread(environment, volumes=settings.volumes)
    responder = Responder(settings.responder_host, settings.responder_port)
    try:
        hello = Hello(
            version=cvmprobe.__version__,
            endpoint=Endpoint(settings.node, settings.role),
            boot_id=_boot_id(),
            start_id=uuid.uuid4().hex,
            responder_port=responder.port,
            probe_service_port=0,
            environment=found,
        )
        await Daemon(settings, responder, hello).run(stop)
    finally:
        responder.close()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _not_for_the_dead(message: CollectorMessage) -> None:
    """Plans and leases are for living starts."""
    del message


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is gone, and with it whoever waited
        loop.call_soon_threadsafe(call)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"agent.{setting}: cannot read {path}: {error.strerror}") from error
