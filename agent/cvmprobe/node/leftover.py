"""What earlier starts left undelivered: sent under their own start ids, while the present start is not attached."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from cvmprobe.errors import ProbeError
from cvmprobe.model.assignment import LeaseReport
from cvmprobe.model.delivery import Batch, Bye, Hello, Loss, Preview
from cvmprobe.model.window import SampleBlock
from cvmprobe.node.spool import DAMAGED, SUFFIX, Spool, SpoolError, files, remove, set_aside

__all__ = ["Attachment", "Leftover", "deliver", "leftovers"]

_LOG: Final = logging.getLogger(__name__)


class Attachment(Protocol):
    """What is needed of ``wire.uplink.Uplink`` here."""

    def finish(self, bye: Bye) -> None:
        """Let ``run`` end by itself once all is acked and Bye is sent."""
        ...

    async def run(self) -> None:
        """Attach, and re-attach after every loss."""
        ...


class Leftover:
    """The spool of a start that is over, as an outbox to be emptied. Implements ``wire.uplink.Outbox``.

    ``bye`` is there if that start ended in good order. One that was killed says no Bye: what it had measured and
    not yet numbered is lost, nobody knows how much, and the collector says so with an open gap.
    """

    def __init__(self, spool: Spool, hello: Hello, unpack: Callable[[bytes], Batch]) -> None:
        self._spool = spool
        self._unpack = unpack
        # No ports: whoever attaches so holds no lease and answers no peer.
        self.hello = replace(hello, responder_port=0, probe_service_port=0)
        self.bye = Bye(spool.last_seq) if spool.ended else None
        self.delivered = asyncio.Event()
        if spool.acked >= spool.last_seq:
            self.delivered.set()
        self._damaged = False

    def after(self, seq: int) -> Batch | Loss | None:
        """Give the next numbered thing after ``seq``; None when there is none."""
        last = self._spool.last_seq
        if seq >= last:
            return None
        try:
            row = self._spool.after(seq)
        except SpoolError as error:
            _LOG.warning("leftover start=%s: %s", self.hello.start_id, error)
            self._damaged = True
            row = None
        following = last + 1 if row is None else row.seq
        if row is None or following > seq + 1:
            return Loss(seq + 1, following - 1, "not to be found in the spool that this start left")
        try:
            return self._unpack(row.body)
        except (ProbeError, ValueError) as error:
            return Loss(row.seq, row.seq, f"the batch cannot be read back: {error}")

    def forget(self, seq: int) -> None:
        """All numbered things up to ``seq`` are committed."""
        with suppress(SpoolError):  # sent again at worst, and dropped there as known
            self._spool.forget(seq)
        if seq >= self._spool.last_seq:
            self.delivered.set()

    def next_unnumbered(self) -> LeaseReport | SampleBlock | Preview | None:
        """Give nothing: reports and samples of that start died with it."""
        return None

    def close(self) -> None:
        """Keep the file for another time."""
        self._spool.close()

    def remove(self) -> None:
        """Let go of the file: all of it is acknowledged. A damaged one is set aside, for a person to look at."""
        if self._damaged:
            self._spool.quarantine()
        else:
            self._spool.remove()


async def deliver(leftover: Leftover, attachment: Attachment, patience_s: float) -> bool:
    """Send all of ``leftover`` through ``attachment``; returns whether that was done within ``patience_s``."""
    running = asyncio.create_task(attachment.run())
    emptied = asyncio.create_task(leftover.delivered.wait())
    if leftover.bye is not None:
        attachment.finish(leftover.bye)
    try:
        wanted = {running} if leftover.bye is not None else {running, emptied}
        await asyncio.wait(wanted, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if leftover.bye is not None and (not running.done() or running.exception() is not None):
            return False
        return leftover.delivered.is_set()
    finally:
        running.cancel()
        emptied.cancel()
        await asyncio.gather(running, emptied, return_exceptions=True)


def leftovers(directory: Path, own: str, max_bytes: int, unpack: Callable[[bytes], Batch]) -> Iterator[Leftover]:
    """Open the spools of earlier starts in ``directory``, one at a time, the newest first.

    ``own`` is the present start's id. Beyond ``max_bytes`` of files the oldest are deleted, and logged.
    """
    held = 0
    for path in _newest_first(directory):
        if path.stem == own or path.name == DAMAGED:
            continue
        held += _size(path)
        if held > max_bytes:
            _LOG.warning("leftover start=%s deleted: the spools of ended starts exceed %d bytes", path.stem, max_bytes)
            remove(path)
            continue
        leftover = _open(path, max_bytes, unpack)
        if leftover is not None:
            yield leftover


def _open(path: Path, max_bytes: int, unpack: Callable[[bytes], Batch]) -> Leftover | None:
    try:
        spool = Spool(path, max_bytes)
    except SpoolError as error:
        if error.damaged:
            _LOG.warning("leftover start=%s set aside: %s", path.stem, error)
            set_aside(path)
        elif not error.busy:
            _LOG.warning("leftover start=%s left alone: %s", path.stem, error)
        return None
    try:
        if spool.last_seq == spool.acked and not spool.ended:
            spool.remove()
            return None
        hello = spool.hello
        if hello is not None and hello.start_id == path.stem:
            return Leftover(spool, hello, unpack)
        _LOG.warning("leftover start=%s set aside: it does not say whose it is", path.stem)
    except SpoolError as error:
        _LOG.warning("leftover start=%s set aside: %s", path.stem, error)
    spool.quarantine()
    return None


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in files(path) if file.exists())
