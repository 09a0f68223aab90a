"""What can be set about a collector; section ``[collector]`` of the configuration file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ["Budgets", "CollectorSettings", "Light"]


class Light(msgspec.Struct, frozen=True, kw_only=True):
    """The light probes that always run."""

    neighbours: Annotated[int, Meta(ge=0, le=16, description="ring neighbours each endpoint probes all the time")] = 2
    rotate_ms: Annotated[
        int, Meta(ge=1_000, description="how long each endpoint also probes one further peer before the next, in ms")
    ] = 300_000
    rate_per_s: Annotated[int, Meta(ge=1, le=1_000, description="round trips a second on each light probe")] = 10
    interval_ms: Annotated[int, Meta(ge=1_000, description="length of a light window, in ms")] = 10_000


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """What may be used at the most. What is not set is 0: nothing is allowed."""

    light_operations_per_s: Annotated[
        int, Meta(ge=0, description="light operations a second each node may initiate, all probes together")
    ] = 0
    light_bits_per_s: Annotated[
        int, Meta(ge=0, description="light traffic each node may initiate, both ways, in bit/s on the wire")
    ] = 0
    network_bytes_per_day: Annotated[
        int, Meta(ge=0, description="payload bytes all heavy network leases may move in 24 hours, in the whole cluster")
    ] = 0
    disk_write_bytes_per_day: Annotated[
        int, Meta(ge=0, description="bytes all disk leases may write in 24 hours, in the whole cluster")
    ] = 0


class CollectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one collector."""

    state_dir: Annotated[
        Path, Meta(description="directory of the store, the CA and endpoint.json; made with mode 0700")
    ]
    identity: Annotated[
        Literal["tokens", "kubernetes"],
        Meta(description="who vouches for callers: the tokens file, or the Kubernetes API server we run beside"),
    ] = "tokens"
    tokens_file: Annotated[
        Path | None,
        Meta(description='identity tokens: who may come in: JSON {"<token>": {"name", "access", "node"}}, mode 0600'),
    ] = None
    namespace: Annotated[
        str, Meta(min_length=1, description="identity kubernetes: namespace of our pods and ServiceAccounts")
    ] = "cvmprobe"
    node: Annotated[
        str, Meta(description="identity kubernetes: node we run on, which the results name; empty: they do not")
    ] = ""
    service_host: Annotated[
        str, Meta(description="Service before all peers, through which path service is measured; empty: it is not")
    ] = ""
    ephemeral: Annotated[bool, Meta(description="say that nothing stored here outlives the collector's pod")] = False
    listen: Annotated[str, Meta(description="host:port served by gRPC over TLS; port 0 takes a free one")] = (
        "127.0.0.1:0"
    )
    health_listen: Annotated[
        str, Meta(description="host:port of gRPC health without TLS, for a prober that speaks none; empty: none")
    ] = ""
    names: Annotated[
        tuple[str, ...], Meta(min_length=1, description="DNS names and IP addresses the certificate is issued for")
    ] = ("localhost", "127.0.0.1")
    cluster: Annotated[
        str, Meta(min_length=1, description="identity tokens: name of the cluster in every stored window")
    ] = "local"
    hosts: Annotated[
        dict[str, str],
        Meta(description="identity tokens: node name -> host its peers reach it at; a node not named is no peer"),
    ] = {}
    keep_days: Annotated[int, Meta(ge=1, description="days a stored window is kept")] = 30
    keep_bytes: Annotated[int, Meta(ge=1, description="size of the store above which the oldest windows go")] = 8 << 30
    light: Light = Light()
    budgets: Budgets = Budgets()
