"""Hypothesis strategies for every class of the model, within what the wire takes."""

import math

from hypothesis import strategies as st

from cvmprobe.model.assignment import Admission, Lease, LeaseReport, LeaseState, LightProbe, Plan, Revoke, Side
from cvmprobe.model.delivery import Ack, Batch, Bye, Heartbeat, Hello, Loss, Preview, Welcome
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, PeerAddress, Role, VolumeTarget
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Attachment, Missed, NodeStatus, ProbeStatus, Selection, Summary, TimeRange
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import ClockPair, Direction, Flag, Instance, Phase, Probe, SampleBlock, Window

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
seqs = st.integers(1, 2**53)
times_ms = st.integers(0, 253_370_764_800_000)
durations_ms = st.integers(1, 2**32 - 1)
ports = st.integers(0, 65_535)
printable = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
lines = st.text(printable, max_size=20)
names = st.text(printable, min_size=1, max_size=20)
amounts = st.floats(0, math.nextafter(math.inf, 0))
parameters = st.dictionaries(names, lines, max_size=3)
counters = st.dictionaries(names, u64, max_size=3)
keys = st.binary(max_size=64)


def few(strategy, most=3):
    return st.lists(strategy, max_size=most).map(tuple)


def maybe(strategy):
    return st.none() | strategy


endpoints = st.builds(Endpoint, node=names, role=st.sampled_from(Role))
endpoint_targets = st.builds(EndpointTarget, endpoint=endpoints, path=st.sampled_from(Path))
targets = endpoint_targets | st.builds(VolumeTarget, volume=names) | st.builds(NodeTarget)
peers = st.builds(PeerAddress, host=names, port=st.integers(1, 65_535), dials=st.integers(0, 100_000))
instances = st.builds(
    Instance,
    assignment_id=names,
    probe=st.sampled_from(Probe),
    source=endpoints,
    target=targets,
    direction=st.sampled_from(Direction),
    repeat=u32,
    parameters=parameters,
)
histograms = st.builds(
    Histogram,
    schema=st.integers(-4, 8),
    buckets=st.dictionaries(st.integers(0, 16_384), st.integers(1, 2**64 - 1), max_size=8),
    zero=u64,
    overflow=u64,
    sum=u64,
    sum_squares=st.integers(0, 2**128 - 1),
    minimum=maybe(u64),
    maximum=maybe(u64),
)
windows = st.builds(
    Window,
    instance=instances,
    end_unix_ms=times_ms,
    duration_ns=u64,
    phase=st.sampled_from(Phase),
    counters=counters,
    histograms=st.dictionaries(names, histograms, max_size=2),
    facts=parameters,
    flags=st.frozensets(st.sampled_from(Flag)),
)
sample_blocks = st.builds(
    SampleBlock,
    instance=instances,
    clock=st.builds(ClockPair, monotonic_ns=u64, unix_ns=st.integers(0, 2**63 - 1)),
    rows=st.integers(0, 8).flatmap(lambda count: st.binary(min_size=16 * count, max_size=16 * count)),
    lost=u64,
)
verdicts = st.builds(
    TeeVerdict,
    kind=st.sampled_from(TeeKind),
    paravisor=maybe(st.booleans()),
    vmpl=maybe(st.integers(0, 3)),
    confidence=st.sampled_from(Confidence),
    evidence=few(lines),
    attested=st.booleans(),
)
environments = st.builds(
    Environment,
    facts=few(st.builds(Fact, name=names, value=maybe(lines), source=lines)),
    tee=verdicts,
)

hellos = st.builds(
    Hello,
    version=names,
    endpoint=endpoints,
    boot_id=names,
    start_id=names,
    responder_port=ports,
    probe_service_port=ports,
    environment=environments,
)
batches = st.builds(Batch, seq=seqs, windows=few(windows, 2))
losses = st.tuples(seqs, seqs, lines).map(lambda loss: Loss(min(loss[:2]), max(loss[:2]), loss[2]))
lease_reports = st.builds(
    LeaseReport,
    lease_id=names,
    side=st.sampled_from(Side),
    state=st.sampled_from(LeaseState),
    detail=lines,
    last_seq=st.just(0) | seqs,
    totals=counters,
)
previews = st.builds(Preview, windows=few(windows, 2))
byes = st.builds(Bye, last_seq=st.just(0) | seqs)
agent_messages = st.one_of(batches, losses, lease_reports, sample_blocks, previews, byes)

plans = st.builds(
    Plan,
    plan_id=names,
    valid_for_ms=u64,
    probes=few(
        st.builds(
            LightProbe,
            probe_id=names,
            probe=st.sampled_from(Probe),
            target=targets,
            parameters=parameters,
            interval_ms=durations_ms,
            peer=maybe(peers),
            key=keys,
        )
    ),
    admissions=few(st.builds(Admission, probe_id=names, probe=st.sampled_from(Probe), key=keys)),
)
leases = st.builds(
    Lease,
    lease_id=names,
    run_id=names,
    side=st.sampled_from(Side),
    probe=st.sampled_from(Probe),
    source=endpoints,
    target=targets,
    direction=st.sampled_from(Direction),
    repeat=u32,
    parameters=parameters,
    interval_ms=durations_ms,
    duration_ms=durations_ms,
    valid_for_ms=u64,
    max_bytes=u64,
    raw_samples=st.booleans(),
    peer=maybe(peers),
    key=keys,
)
collector_messages = st.one_of(
    st.builds(
        Welcome,
        stored_seq=u64,
        heartbeat_ms=durations_ms,
        certificate_pem=st.binary(max_size=40),
        private_key_pem=st.binary(max_size=40),
    ),
    st.builds(Ack, seq=u64),
    plans,
    leases,
    st.builds(Revoke, lease_id=names, reason=lines),
    st.just(Heartbeat()),
)

selections = st.builds(
    Selection,
    nodes=few(names),
    probes=few(st.sampled_from(Probe)),
    paths=few(st.sampled_from(Path)),
    targets=few(lines),
    run_id=maybe(names),
)
spans = st.builds(TimeRange, start_unix_ms=maybe(u64), end_unix_ms=maybe(u64))
misses = st.builds(Missed, count=seqs)
node_statuses = st.builds(
    NodeStatus,
    endpoint=endpoints,
    attachment=st.sampled_from(Attachment),
    version=lines,
    start_id=lines,
    numbered=maybe(u64),
    stored=u64,
    pending=maybe(u64),
    lost=maybe(u64),
    probe_service_port=ports,
    environment=maybe(environments),
)
probe_statuses = st.builds(ProbeStatus, instance=instances, windows=u64, last_end_unix_ms=u64)
summaries = st.builds(
    lambda target, **rest: Summary(target=target, path=getattr(target, "path", None), **rest),
    source=endpoints,
    probe=st.sampled_from(Probe),
    target=targets,
    direction=st.sampled_from(Direction),
    parameters=parameters,
    metric=names,
    windows=u64,
    seconds=amounts,
    count=u64,
    rate=maybe(amounts),
    mean=maybe(amounts),
    quantiles=st.dictionaries(st.floats(0, 1, exclude_min=True, exclude_max=True), amounts, max_size=3),
    flags=st.dictionaries(st.sampled_from(Flag), u64),
    facts=parameters,
    left_out=u64,
)
runs = st.builds(
    Run,
    run_id=names,
    suite=names,
    scale=amounts,
    state=st.sampled_from(RunState),
    started_unix_ms=u64,
    ended_unix_ms=maybe(u64),
    cost=st.builds(Cost, seconds=amounts, network_bytes=u64, disk_write_bytes=u64),
    leases_total=u32,
    leases=few(
        st.builds(
            LeaseRecord, lease_id=names, step=names, instance=instances, state=names, detail=lines, totals=counters
        ),
        2,
    ),
    detail=lines,
)
