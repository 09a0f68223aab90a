"""The agent's attachment to its collector: resumes after any break, and forgets nothing before it is acked."""

from collections.abc import Callable
from typing import Protocol

from cvmprobe.model.assignment import LeaseReport
from cvmprobe.model.delivery import Batch, Bye, Hello, Loss, Preview
from cvmprobe.model.window import SampleBlock
from cvmprobe.wire.handler import CollectorMessage
from cvmprobe.wire.tls import ClientTls

__all__ = ["Outbox", "Uplink"]


class Outbox(Protocol):
    """What an agent has to send: its spool and its queues in memory. Called in the event loop; must not block."""

    def after(self, seq: int) -> Batch | Loss | None:
        """Give the next numbered thing after ``seq``; None when there is none yet."""
        ...

    def forget(self, seq: int) -> None:
        """All numbered things up to ``seq`` are committed."""
        ...

    def next_unnumbered(self) -> LeaseReport | SampleBlock | Preview | None:
        """Take the next of what goes beside the numbered things; None when there is none.

        The uplink keeps lease reports and samples until the collector has received them, and sends them
        again after a break; a preview is sent once or never.
        """
        ...


class Uplink:
    """Keeps one agent attached to one collector.

    ``collector`` is host:port. ``tls``, ``token`` and ``hello`` are asked at every attempt, so that rotated
    files count at once. ``receive`` gets every message of the collector, in order, except acks, which go to
    ``spool.forget``; it is called in the event loop and must not block. The first message of every
    attachment is Welcome.
    """

    def __init__(
        self,
        *,
        collector: str,
        tls: Callable[[], ClientTls],
        token: Callable[[], str],
        hello: Callable[[], Hello],
        spool: Outbox,
        receive: Callable[[CollectorMessage], None],
    ) -> None:
        raise NotImplementedError

    @property
    def attached(self) -> bool:
        """Whether the collector has answered the current attachment with Welcome."""
        raise NotImplementedError

    @property
    def trouble(self) -> str | None:
        """Why there is no attachment, in one line; None while there is one."""
        raise NotImplementedError

    def wake(self) -> None:
        """Say that there is something new in the outbox. From the event loop only."""
        raise NotImplementedError

    def finish(self, bye: Bye) -> None:
        """Let ``run`` end by itself: once all is sent and ``bye.last_seq`` is acked, Bye is the last message."""
        raise NotImplementedError

    async def run(self) -> None:
        """Attach, and re-attach after every loss with a jittered exponential back-off; ends by cancel or ``finish``.

        A refused token is logged and tried again too: it may be replaced.
        """
        raise NotImplementedError
