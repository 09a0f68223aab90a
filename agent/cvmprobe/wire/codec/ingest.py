"""Codec of ingest.proto: what an agent and its collector say to each other."""

from dataclasses import dataclass

from cvmprobe.errors import WireError
from cvmprobe.model.assignment import Admission, Lease, LeaseReport, LeaseState, LightProbe, Plan, Revoke, Side
from cvmprobe.model.delivery import Ack, Batch, Bye, Heartbeat, Hello, Loss, Preview, Welcome
from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.model.window import SampleBlock
from cvmprobe.v1 import ingest_pb2 as wire
from cvmprobe.wire.codec.checks import (
    EnumTable,
    at_least,
    at_most,
    capped,
    each,
    name,
    named,
    port,
    sequence,
    text,
    texts,
    within,
)
from cvmprobe.wire.codec.facts import (
    DIRECTIONS,
    PROBES,
    decode_endpoint,
    decode_environment,
    decode_samples,
    decode_target,
    decode_window,
    encode_endpoint,
    encode_environment,
    encode_samples,
    encode_target,
    encode_window,
)
from cvmprobe.wire.handler import AgentMessage, CollectorMessage

__all__ = [
    "LEASE_STATES",
    "SIDES",
    "Receipt",
    "decode_agent_message",
    "decode_collector_message",
    "decode_hello",
    "encode_agent_message",
    "encode_collector_message",
    "encode_hello",
]

SIDES = EnumTable(Side, wire.Side, "SIDE")
LEASE_STATES = EnumTable(LeaseState, wire.LeaseState, "LEASE_STATE")

_WINDOWS_CAP = 10_000  # of one batch
_PLAN_CAP = 10_000  # probes or admissions of one plan
_KEY_CAP = 64  # bytes
_DIALS_CAP = 1_000_000
_PEM_CAP = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """All lease reports and samples up to number ``aside`` have arrived. Between the two ends of the wire only."""

    aside: int


def encode_hello(hello: Hello) -> wire.AttachRequest:
    """Encode the first message of an attachment. Raises WireError when a value does not fit."""
    try:
        return wire.AttachRequest(
            hello=wire.Hello(
                version=hello.version,
                endpoint=encode_endpoint(hello.endpoint),
                boot_id=hello.boot_id,
                start_id=hello.start_id,
                responder_port=hello.responder_port,
                probe_service_port=hello.probe_service_port,
                environment=encode_environment(hello.environment),
            )
        )
    except (ValueError, TypeError) as error:
        raise WireError(f"Hello cannot be sent: {error}") from error


def decode_hello(request: wire.AttachRequest) -> Hello:
    """Decode the first message of an attachment; anything else is refused."""
    if request.WhichOneof("message") != "hello":
        raise WireError(f"hello: the first message was {request.WhichOneof('message') or 'empty'}")
    return within("hello", _decode_hello, request.hello)


def _decode_hello(message: wire.Hello) -> Hello:
    return Hello(
        version=name(message.version, "version"),
        endpoint=within("endpoint", decode_endpoint, message.endpoint),
        boot_id=name(message.boot_id, "boot_id"),
        start_id=name(message.start_id, "start_id"),
        responder_port=port(message.responder_port, "responder_port"),
        probe_service_port=port(message.probe_service_port, "probe_service_port"),
        environment=within("environment", decode_environment, message.environment),
    )


def encode_agent_message(message: AgentMessage, aside: int = 0) -> wire.AttachRequest:
    """Encode what an agent sends after its Hello. Raises WireError when a value does not fit."""
    try:
        request = _agent_request(message)
    except (ValueError, TypeError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from error
    request.aside = aside
    return request


def _agent_request(message: AgentMessage) -> wire.AttachRequest:
    match message:
        case Batch():
            windows = [encode_window(window) for window in message.windows]
            return wire.AttachRequest(batch=wire.Batch(seq=message.seq, windows=windows))
        case Loss():
            loss = wire.Loss(first_seq=message.first_seq, last_seq=message.last_seq, reason=message.reason)
            return wire.AttachRequest(loss=loss)
        case LeaseReport():
            return wire.AttachRequest(lease_report=_encode_lease_report(message))
        case SampleBlock():
            return wire.AttachRequest(samples=encode_samples(message))
        case Preview():
            preview = wire.Preview(windows=[encode_window(window) for window in message.windows])
            return wire.AttachRequest(preview=preview)
        case Bye():
            return wire.AttachRequest(bye=wire.Bye(last_seq=message.last_seq))


def decode_agent_message(request: wire.AttachRequest) -> AgentMessage | None:
    """Decode what an agent sends after its Hello; None for a kind a newer agent knows and we do not.

    A batch whose number can be read and whose windows cannot becomes the Loss of that number.
    """
    match request.WhichOneof("message"):
        case "batch":
            return _decode_batch(request.batch)
        case "loss":
            return within("loss", _decode_loss, request.loss)
        case "lease_report":
            return within("lease_report", _decode_lease_report, request.lease_report)
        case "samples":
            return within("samples", decode_samples, request.samples)
        case "preview":
            windows = capped(request.preview.windows, "preview.windows", _WINDOWS_CAP)
            return Preview(windows=each("preview.windows", decode_window, windows))
        case "bye":
            return Bye(last_seq=sequence(request.bye.last_seq, "bye.last_seq"))
        case "hello":
            raise WireError("hello: came a second time")
        case None:
            return None


def _decode_batch(message: wire.Batch) -> Batch | Loss:
    seq = sequence(at_least(1, message.seq, "batch.seq"), "batch.seq")
    try:
        windows = capped(message.windows, "batch.windows", _WINDOWS_CAP)
        return Batch(seq=seq, windows=each("batch.windows", decode_window, windows))
    except WireError as error:
        return Loss(first_seq=seq, last_seq=seq, reason=f"the collector cannot read it: {error}")


def _decode_loss(message: wire.Loss) -> Loss:
    first = at_least(1, message.first_seq, "first_seq")
    last = sequence(at_least(first, message.last_seq, "last_seq"), "last_seq")
    return Loss(first_seq=first, last_seq=last, reason=text(message.reason, "reason"))


def _encode_lease_report(report: LeaseReport) -> wire.LeaseReport:
    return wire.LeaseReport(
        lease_id=report.lease_id,
        side=SIDES.encode(report.side),
        state=LEASE_STATES.encode(report.state),
        detail=report.detail,
        last_seq=report.last_seq,
        totals=report.totals,
    )


def _decode_lease_report(message: wire.LeaseReport) -> LeaseReport:
    return LeaseReport(
        lease_id=name(message.lease_id, "lease_id"),
        side=SIDES.decode(message.side, "side"),
        state=LEASE_STATES.decode(message.state, "state"),
        detail=text(message.detail, "detail"),
        last_seq=sequence(message.last_seq, "last_seq"),
        totals=named(message.totals, "totals"),
    )


def encode_collector_message(message: CollectorMessage | Receipt) -> wire.AttachResponse:
    """Encode what a collector sends. Raises WireError when a value does not fit."""
    try:
        return _collector_response(message)
    except (ValueError, TypeError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from error


def _collector_response(message: CollectorMessage | Receipt) -> wire.AttachResponse:
    match message:
        case Welcome():
            welcome = wire.Welcome(
                stored_seq=message.stored_seq,
                heartbeat_ms=message.heartbeat_ms,
                certificate_pem=message.certificate_pem,
                private_key_pem=message.private_key_pem,
            )
            return wire.AttachResponse(welcome=welcome)
        case Ack():
            return wire.AttachResponse(ack=wire.Ack(seq=message.seq))
        case Plan():
            return wire.AttachResponse(plan=_encode_plan(message))
        case Lease():
            return wire.AttachResponse(lease=_encode_lease(message))
        case Revoke():
            return wire.AttachResponse(revoke=wire.Revoke(lease_id=message.lease_id, reason=message.reason))
        case Heartbeat():
            return wire.AttachResponse(heartbeat=wire.Heartbeat())
        case Receipt():
            return wire.AttachResponse(receipt=wire.Receipt(aside=message.aside))


def decode_collector_message(response: wire.AttachResponse) -> CollectorMessage | Receipt | None:
    """Decode what a collector sends; None for a kind a newer collector knows and we do not."""
    match response.WhichOneof("message"):
        case "welcome":
            return within("welcome", _decode_welcome, response.welcome)
        case "ack":
            return Ack(seq=response.ack.seq)
        case "plan":
            return within("plan", _decode_plan, response.plan)
        case "lease":
            return within("lease", _decode_lease, response.lease)
        case "revoke":
            revoke = response.revoke
            return Revoke(lease_id=name(revoke.lease_id, "revoke.lease_id"), reason=text(revoke.reason, "reason"))
        case "heartbeat":
            return Heartbeat()
        case "receipt":
            return Receipt(aside=response.receipt.aside)
        case None:
            return None


def _decode_welcome(message: wire.Welcome) -> Welcome:
    return Welcome(
        stored_seq=message.stored_seq,
        heartbeat_ms=at_least(1, message.heartbeat_ms, "heartbeat_ms"),
        certificate_pem=capped(message.certificate_pem, "certificate_pem", _PEM_CAP),
        private_key_pem=capped(message.private_key_pem, "private_key_pem", _PEM_CAP),
    )


def _encode_peer(peer: PeerAddress | None) -> wire.PeerAddress | None:
    return None if peer is None else wire.PeerAddress(host=peer.host, port=peer.port, dials=peer.dials)


def _decode_peer(message: wire.PeerAddress) -> PeerAddress:
    return PeerAddress(
        host=name(message.host, "host"),
        port=at_least(1, port(message.port, "port"), "port"),
        dials=at_most(_DIALS_CAP, message.dials, "dials"),
    )


def _encode_plan(plan: Plan) -> wire.Plan:
    return wire.Plan(
        plan_id=plan.plan_id,
        valid_for_ms=plan.valid_for_ms,
        probes=[
            wire.LightProbe(
                probe_id=light.probe_id,
                probe=PROBES.encode(light.probe),
                target=encode_target(light.target),
                parameters=light.parameters,
                interval_ms=light.interval_ms,
                peer=_encode_peer(light.peer),
                key=light.key,
            )
            for light in plan.probes
        ],
        admissions=[
            wire.Admission(probe_id=admission.probe_id, probe=PROBES.encode(admission.probe), key=admission.key)
            for admission in plan.admissions
        ],
    )


def _decode_plan(message: wire.Plan) -> Plan:
    return Plan(
        plan_id=name(message.plan_id, "plan_id"),
        valid_for_ms=message.valid_for_ms,
        probes=each("probes", _decode_light_probe, capped(message.probes, "probes", _PLAN_CAP)),
        admissions=each("admissions", _decode_admission, capped(message.admissions, "admissions", _PLAN_CAP)),
    )


def _decode_light_probe(message: wire.LightProbe) -> LightProbe:
    return LightProbe(
        probe_id=name(message.probe_id, "probe_id"),
        probe=PROBES.decode(message.probe, "probe"),
        target=within("target", decode_target, message.target),
        parameters=texts(message.parameters, "parameters"),
        interval_ms=at_least(1, message.interval_ms, "interval_ms"),
        peer=within("peer", _decode_peer, message.peer) if message.HasField("peer") else None,
        key=capped(message.key, "key", _KEY_CAP),
    )


def _decode_admission(message: wire.Admission) -> Admission:
    return Admission(
        probe_id=name(message.probe_id, "probe_id"),
        probe=PROBES.decode(message.probe, "probe"),
        key=capped(message.key, "key", _KEY_CAP),
    )


def _encode_lease(lease: Lease) -> wire.Lease:
    return wire.Lease(
        lease_id=lease.lease_id,
        run_id=lease.run_id,
        side=SIDES.encode(lease.side),
        probe=PROBES.encode(lease.probe),
        source=encode_endpoint(lease.source),
        target=encode_target(lease.target),
        direction=DIRECTIONS.encode(lease.direction),
        repeat=lease.repeat,
        parameters=lease.parameters,
        interval_ms=lease.interval_ms,
        duration_ms=lease.duration_ms,
        valid_for_ms=lease.valid_for_ms,
        max_bytes=lease.max_bytes,
        raw_samples=lease.raw_samples,
        peer=_encode_peer(lease.peer),
        key=lease.key,
    )


def _decode_lease(message: wire.Lease) -> Lease:
    return Lease(
        lease_id=name(message.lease_id, "lease_id"),
        run_id=name(message.run_id, "run_id"),
        side=SIDES.decode(message.side, "side"),
        probe=PROBES.decode(message.probe, "probe"),
        source=within("source", decode_endpoint, message.source),
        target=within("target", decode_target, message.target),
        direction=DIRECTIONS.decode(message.direction, "direction"),
        repeat=message.repeat,
        parameters=texts(message.parameters, "parameters"),
        interval_ms=at_least(1, message.interval_ms, "interval_ms"),
        duration_ms=at_least(1, message.duration_ms, "duration_ms"),
        valid_for_ms=message.valid_for_ms,
        max_bytes=message.max_bytes,
        raw_samples=message.raw_samples,
        peer=within("peer", _decode_peer, message.peer) if message.HasField("peer") else None,
        key=capped(message.key, "key", _KEY_CAP),
    )
