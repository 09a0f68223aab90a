"""Settings of one agent: whom it dials, what it keeps, and how much it may spend; table ``[agent]``."""

import platform
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from cvmprobe.model.endpoint import Role

__all__ = ["AgentBudgets", "AgentSettings"]

_MIB = 1 << 20
_Port = Annotated[int, Meta(ge=0, le=65535)]


class AgentBudgets(Struct, frozen=True, kw_only=True):
    """What this node may be asked for at the most. Absent is 0: nothing."""

    light_operations_per_s: Annotated[
        int, Meta(ge=0, description="operations a second that all light probes of the plan may start together")
    ] = 0
    heavy_bytes_per_day: Annotated[
        int, Meta(ge=0, description="payload bytes that network leases may move in one UTC day")
    ] = 0
    disk_write_bytes_per_day: Annotated[
        int, Meta(ge=0, description="bytes that disk leases may write in one UTC day, preparation included")
    ] = 0


class AgentSettings(Struct, frozen=True, kw_only=True):
    """Everything an agent is told before the collector speaks to it."""

    collector: Annotated[str, Meta(min_length=3, description="host:port of the collector to dial")]
    ca_file: Annotated[
        Path, Meta(description="PEM file with the authority that signed the collector; read again for every attachment")
    ]
    token_file: Annotated[
        Path, Meta(description="file with the token that proves this agent; read again for every attachment")
    ]
    server_name: Annotated[
        str, Meta(description="name the collector's certificate must carry; empty: the host in collector")
    ] = ""
    node: Annotated[str, Meta(min_length=1, description="name of this node; default: the host's name")] = field(
        default_factory=platform.node
    )
    role: Annotated[Role, Meta(description="what this endpoint is on its node")] = Role.POD
    responder_host: Annotated[str, Meta(description="address the responder listens on")] = "0.0.0.0"  # noqa: S104 - peers on other nodes dial it, and the hello guards it
    responder_port: Annotated[_Port, Meta(description="port the responder listens on; 0: the kernel chooses")] = 0
    probe_service: Annotated[
        bool, Meta(description="serve this agent's own live windows on loopback; never for role host")
    ] = False
    probe_service_port: Annotated[_Port, Meta(description="port of that service; 0: the kernel chooses")] = 0
    probe_service_token_file: Annotated[
        Path | None,
        Meta(description="token a viewer of that service must show; none: whoever reaches the loopback may look"),
    ] = None
    state_dir: Annotated[Path, Meta(description="directory for the spool and the record of what was spent")] = Path(
        "/var/lib/cvmprobe"
    )
    spool_bytes: Annotated[
        int, Meta(ge=_MIB, description="size of the spool on disk; beyond it the oldest batches are lost, and counted")
    ] = 64 * _MIB
    memory_bytes: Annotated[
        int, Meta(ge=_MIB, description="size of the spool in memory, used while the disk refuses")
    ] = 8 * _MIB
    sample_bytes: Annotated[
        int, Meta(ge=0, description="raw samples held in memory until they are sent; beyond it lost, and counted")
    ] = 32 * _MIB
    drain_ms: Annotated[
        int, Meta(ge=0, le=600_000, description="how long to wait at the end for what is spooled to be acknowledged")
    ] = 5_000
    max_pressure_percent: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="leases are refused while tasks of this node wait for a CPU, I/O or memory for a larger share"
            " of the time; 100: none is, it is only flagged",
        ),
    ] = 100
    volumes: Annotated[
        dict[str, Path], Meta(description="directories that disk leases may use, by name; none given, none used")
    ] = field(default_factory=dict)
    budgets: AgentBudgets = AgentBudgets()
