"""What several probes can be asked alike, named here once, and how their engines are asked for it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.window import Direction
from cvmprobe.probes.execution import Setup

__all__ = [
    "Arrival",
    "KernelStamps",
    "OmitMs",
    "Placement",
    "RequestBytes",
    "ResponseBytes",
    "TransactionRate",
    "Wait",
    "stream_options",
    "transaction_options",
]

_MAX_STREAMS_BOTH = 32

Arrival = Annotated[Literal["constant", "poisson"], Meta(description="how the starts are spread where there is a rate")]
KernelStamps = Annotated[
    bool, Meta(description="split the wake-up from the round trip by the kernel's own receive time stamps")
]
OmitMs = Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")]
Placement = Annotated[
    str, Meta(description="CPUs of the initiator's threads: inherit, same, split, or a list such as 0,2-3")
]
RequestBytes = Annotated[int, Meta(ge=1, le=1 << 20, description="size of a request")]
ResponseBytes = Annotated[int, Meta(ge=1, le=1 << 20, description="size of a response")]
TransactionRate = Annotated[
    float,
    Meta(ge=0, le=1_000_000, description="transactions a second over all connections; 0: each starts when one ended"),
]
Wait = Annotated[
    Literal["block", "epoll", "spin"],
    Meta(description="at both ends: sleep in recv of one connection, in epoll_wait of all, or ask without sleeping"),
]


def transaction_options(setup: Setup, parameters: msgspec.Struct) -> dict[str, Any]:
    """Return the options of an engine that counts transactions, for what its probe was asked."""
    options = _options(parameters)
    return {
        "duration_ms": setup.duration_ms,
        "raw_samples": setup.raw_samples,
        "poisson": options.pop("arrival") == "poisson",
        **options,
    }


def stream_options(setup: Setup, parameters: msgspec.Struct) -> dict[str, Any]:
    """Return the options of an engine that streams, for what its probe was asked.

    Raises UsageError that names what is wrong.
    """
    options, instance = _options(parameters), setup.instance
    if setup.duration_ms is None:
        raise UsageError(f"{instance.probe}: it fills the path, so it needs a duration")
    if instance.direction is Direction.BOTH and options["streams"] > _MAX_STREAMS_BOTH:
        raise UsageError(
            f"{instance.probe}: parameter streams = {options['streams']}: both directions at once share 64 sockets: "
            f"give {_MAX_STREAMS_BOTH} at most"
        )
    frame = {"duration_ms": setup.duration_ms, "interval_ms": setup.interval_ms, "direction": instance.direction.value}
    return {**frame, **options}


def _options(parameters: msgspec.Struct) -> dict[str, Any]:
    """Return all but the warm-up, which is a matter of the windows. Probe and engine have the same names.

    ``Any``, since each option has a type of its own; the engine refuses what it does not know.
    """
    options = msgspec.structs.asdict(parameters)
    del options["omit_ms"]
    return options
