"""What is encoded is decoded to the same; what does not belong on the wire is refused by the name of its field."""

import contextlib
import dataclasses
import inspect
import math
import re
import typing

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import strategies as some

from cvmprobe.errors import WireError
from cvmprobe.model import assignment, delivery, endpoint, environment, histogram, query, run, window
from cvmprobe.model.delivery import Ack, Bye, Loss
from cvmprobe.model.query import Missed
from cvmprobe.v1 import common_pb2, ingest_pb2, probe_pb2
from cvmprobe.wire.codec import facts, ingest
from cvmprobe.wire.codec import query as answers

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

BOTH_WAYS = {
    "endpoint": (some.endpoints, facts.encode_endpoint, facts.decode_endpoint),
    "target": (some.targets, facts.encode_target, facts.decode_target),
    "instance": (some.instances, facts.encode_instance, facts.decode_instance),
    "window": (some.windows, facts.encode_window, facts.decode_window),
    "samples": (some.sample_blocks, facts.encode_samples, facts.decode_samples),
    "environment": (some.environments, facts.encode_environment, facts.decode_environment),
    "hello": (some.hellos, ingest.encode_hello, ingest.decode_hello),
    "agent message": (some.agent_messages, ingest.encode_agent_message, ingest.decode_agent_message),
    "collector message": (some.collector_messages, ingest.encode_collector_message, ingest.decode_collector_message),
    "selection": (some.selections, answers.encode_selection, answers.decode_selection),
    "span": (some.spans, answers.encode_span, answers.decode_span),
    "missed": (some.misses, answers.encode_missed, answers.decode_missed),
    "node": (some.node_statuses, answers.encode_node, answers.decode_node),
    "probe": (some.probe_statuses, answers.encode_probe, answers.decode_probe),
    "summary": (some.summaries, answers.encode_summary, answers.decode_summary),
    "run": (some.runs, answers.encode_run, answers.decode_run),
}


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_a_fact_survives_the_wire(kind):
    strategy, encode, decode = BOTH_WAYS[kind]

    @quick
    @given(strategy)
    def survives(fact):
        message = encode(fact)
        received = type(message).FromString(message.SerializeToString())
        assert decode(received) == fact
        assert encode(decode(received)) == message

    survives()


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_any_message_is_decoded_or_refused(kind):
    strategy, encode, decode = BOTH_WAYS[kind]

    @quick
    @given(strategy, st.data())
    def decoded_or_refused(fact, data):
        message = encode(fact)
        blob = bytearray(message.SerializeToString())
        for _ in range(data.draw(st.integers(1, 4)) if blob else 0):
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        try:
            mangled = type(message).FromString(bytes(blob))
        except DecodeError:  # gRPC turns it into a status
            return
        with contextlib.suppress(WireError):  # anything else is a crash
            decode(mangled)

    decoded_or_refused()


def test_strategies_cover_every_fact_that_travels():
    covered = set()

    def note(kind):
        if kind in covered or not dataclasses.is_dataclass(kind):
            return
        covered.add(kind)
        for field in typing.get_type_hints(kind).values():
            for part in typing.get_args(field) or (field,):
                for inner in typing.get_args(part) or (part,):
                    note(inner)

    for kind in (*typing.get_args(ingest.AgentMessage), *typing.get_args(ingest.CollectorMessage), delivery.Hello):
        note(kind)
    for kind in (query.NodeStatus, query.ProbeStatus, query.Selection, query.Summary, query.TimeRange, Missed, run.Run):
        note(kind)
    modules = (assignment, delivery, endpoint, environment, histogram, query, run, window)
    facts_of_model = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)
        if kind.__module__ == module.__name__
    }
    # The store's own key and gaps, and the suites, stay where they are.
    assert facts_of_model - covered == {delivery.StreamKey, delivery.Gap, run.Step, run.Suite}


@pytest.mark.parametrize(
    ("table", "wire"),
    [
        (facts.PROBES, common_pb2.Probe),
        (facts.ROLES, common_pb2.Role),
        (facts.PATHS, common_pb2.Path),
        (facts.DIRECTIONS, common_pb2.Direction),
        (facts.PHASES, common_pb2.Phase),
        (facts.FLAGS, common_pb2.Flag),
        (facts.TEE_KINDS, common_pb2.TeeKind),
        (facts.CONFIDENCES, common_pb2.Confidence),
        (ingest.SIDES, ingest_pb2.Side),
        (ingest.LEASE_STATES, ingest_pb2.LeaseState),
        (answers.ATTACHMENTS, probe_pb2.Attachment),
        (answers.RUN_STATES, probe_pb2.RunState),
        (answers.FORMATS, probe_pb2.SnapshotFormat),
    ],
    ids=lambda value: getattr(getattr(value, "DESCRIPTOR", None), "name", ""),
)
def test_enums_of_model_and_wire_are_twins(table, wire):
    for number in wire.values():
        if number:
            assert table.encode(table.decode(number, "it")) == number
    with pytest.raises(WireError, match=r"^it: unknown value 0; known are"):
        table.decode(0, "it")
    with pytest.raises(WireError, match=r"^it: unknown value 77"):
        table.decode(77, "it")


def a_window(**changes):
    instance = common_pb2.Instance(
        assignment_id="a",
        probe=common_pb2.PROBE_TCP_RR,
        source=common_pb2.Endpoint(node="n", role=common_pb2.ROLE_POD),
        target=common_pb2.Target(volume=common_pb2.VolumeTarget(volume="v")),
        direction=common_pb2.DIRECTION_FORWARD,
    )
    message = common_pb2.Window(instance=instance, phase=common_pb2.PHASE_STEADY)
    for path, value in changes.items():
        owner, *fields = message, *path.split("__")
        for name in fields[:-1]:
            owner = getattr(owner, name)
        setattr(owner, fields[-1], value)
    return message


def a_histogram(**fields):
    message = a_window()
    message.histograms["latency_ns"].MergeFrom(common_pb2.Histogram(**fields))
    return message


def flagged(*flags):
    message = a_window()
    message.flags.extend(flags)
    return message


def counted(**counters):
    message = a_window()
    message.counters.update(counters)
    return message


def noted(**noted_facts):
    message = a_window()
    message.facts.update(noted_facts)
    return message


def bucketed(histograms, buckets):
    message = a_window()
    for metric in range(histograms):
        message.histograms[str(metric)].MergeFrom(common_pb2.Histogram(indexes=range(buckets), counts=[1] * buckets))
    return message


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (a_window(phase=0), "phase: unknown value 0"),
        (a_window(instance__probe=99), "instance.probe: unknown value 99"),
        (a_window(instance__assignment_id=""), "instance.assignment_id: is empty"),
        (a_window(instance__assignment_id="x" * 257), "instance.assignment_id: 257 characters"),
        (a_window(instance__assignment_id="a\x1b[2J"), "instance.assignment_id: 'a\\x1b[2J' holds a sign"),
        (a_window(instance__source__node="a\nb"), "instance.source.node: 'a\\nb' holds a sign"),
        (a_window(instance__source__node="a\0"), "instance.source.node: 'a\\x00' holds a sign"),
        (a_window(end_unix_ms=2**64 - 1), "end_unix_ms: 18446744073709551615 is above"),
        (a_window(instance__source__node=""), "instance.source.node: is empty"),
        (a_window(instance__target__volume__volume=""), "instance.target.volume.volume: is empty"),
        (a_histogram(schema=9), "histograms[latency_ns].schema: 9"),
        (a_histogram(indexes=[1], counts=[1, 2]), "histograms[latency_ns].counts: 2 for 1"),
        (a_histogram(indexes=[2, 1], counts=[1, 1]), "histograms[latency_ns].indexes: not strictly"),
        (a_histogram(indexes=[1, 1], counts=[1, 1]), "histograms[latency_ns].indexes: not strictly"),
        (a_histogram(indexes=[-1], counts=[1]), "histograms[latency_ns].indexes: -1 to -1"),
        (a_histogram(indexes=[16_385], counts=[1]), "histograms[latency_ns].indexes: 16385"),
        (a_histogram(indexes=[3], counts=[0]), "histograms[latency_ns].counts: 0 in a bucket"),
        (flagged(200), "flags: unknown value 200"),
        (flagged(1, 1), "flags: one stands twice"),
        (counted(**{str(index): 1 for index in range(1025)}), "counters: 1025 entries"),
        (counted(**{"x\r": 1}), "counters key: 'x\\r' holds a sign"),
        (noted(**{str(index): "x" * 60_000 for index in range(2)}), "facts: 120002 characters"),
        (bucketed(8, 8_193), "histograms, all buckets: 65544 is above"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_window_is_refused_by_field(message, refusal):
    with pytest.raises(WireError, match=f"^{re.escape(refusal)}"):
        facts.decode_window(message)
    request = ingest_pb2.AttachRequest(preview=ingest_pb2.Preview(windows=[a_window(), message]))
    with pytest.raises(WireError, match=f"^{re.escape('preview.windows[1].' + refusal)}"):
        ingest.decode_agent_message(request)


def test_a_batch_that_cannot_be_read_becomes_the_loss_of_its_number():
    bad = ingest_pb2.Batch(seq=7, windows=[a_window(phase=0)])
    loss = ingest.decode_agent_message(ingest_pb2.AttachRequest(batch=bad))
    assert isinstance(loss, Loss)
    assert (loss.first_seq, loss.last_seq) == (7, 7)
    assert "batch.windows[0].phase: unknown value 0" in loss.reason


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"rows": b"x" * 15}, "rows: 15 bytes are not 2 rows"),
        ({"count": 3}, "rows: 32 bytes are not 3 rows"),
        ({"rows": b"y" * 32}, "crc32: "),
        ({"schema": 2}, "schema: unknown value 2"),
        ({"rows": bytes(16 + (1 << 20))}, "rows: 1048592 entries, at most 1048576"),
        ({"clock": common_pb2.ClockPair(unix_ns=2**63)}, "clock.unix_ns: 9223372036854775808 is above"),
    ],
)
def test_a_bad_sample_block_is_refused(changes, refusal):
    message = facts.encode_samples(
        window.SampleBlock(facts.decode_instance(a_window().instance), window.ClockPair(1, 2), b"x" * 32, lost=0)
    )
    for field, value in changes.items():
        if isinstance(value, common_pb2.ClockPair):
            message.clock.CopyFrom(value)
        else:
            setattr(message, field, value)
    with pytest.raises(WireError, match=refusal):
        facts.decode_samples(message)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_no_figure_is_nan_infinite_or_negative(bad):
    message = probe_pb2.Run(run_id="r", suite="s", state=probe_pb2.RUN_STATE_DONE, scale=bad)
    with pytest.raises(WireError, match=r"^scale: "):
        answers.decode_run(message)
    quantile = probe_pb2.Quantile(q=0.5, value=bad)
    summary = probe_pb2.Summary(
        source=common_pb2.Endpoint(node="n", role=common_pb2.ROLE_POD),
        probe=common_pb2.PROBE_DISK,
        target=common_pb2.Target(volume=common_pb2.VolumeTarget(volume="v")),
        direction=common_pb2.DIRECTION_NONE,
        metric="m",
        quantiles=[quantile],
    )
    with pytest.raises(WireError, match=r"^quantiles\[0\].value: "):
        answers.decode_summary(summary)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.5, math.nan])
def test_a_quantile_lies_between_0_and_1(q):
    with pytest.raises(WireError, match=r"^q: "):
        answers._decode_quantile(probe_pb2.Quantile(q=q, value=1))


@pytest.mark.parametrize("number", [-1, 2**64, "seven"])
def test_what_does_not_fit_is_not_sent(number):
    with pytest.raises(WireError, match=r"^Loss cannot be sent: "):
        ingest.encode_agent_message(Loss(number, number, "x"))
    with pytest.raises(WireError, match=r"^Ack cannot be sent: "):
        ingest.encode_collector_message(Ack(number))


def test_a_loss_that_ends_before_it_begins_is_refused():
    with pytest.raises(WireError, match=r"^loss.last_seq: 3 is below 4"):
        ingest.decode_agent_message(ingest_pb2.AttachRequest(loss=ingest_pb2.Loss(first_seq=4, last_seq=3)))


@pytest.mark.parametrize(
    "request_",
    [
        ingest_pb2.AttachRequest(batch=ingest_pb2.Batch(seq=2**64 - 1)),
        ingest_pb2.AttachRequest(loss=ingest_pb2.Loss(first_seq=1, last_seq=2**64 - 1)),
        ingest_pb2.AttachRequest(bye=ingest_pb2.Bye(last_seq=2**64 - 1)),
    ],
)
def test_a_number_that_leaves_no_room_for_the_next_is_refused(request_):
    with pytest.raises(WireError, match=r"seq: 18446744073709551615 is above 9007199254740992"):
        ingest.decode_agent_message(request_)


def test_a_line_for_people_stays_one_line():
    reason = "lost\n12:00 ERROR forged\x1b[2J\tthen"
    loss = ingest.decode_agent_message(ingest_pb2.AttachRequest(loss={"first_seq": 1, "last_seq": 1, "reason": reason}))
    assert loss.reason == "lost\ufffd12:00 ERROR forged\ufffd[2J\tthen"


def test_the_first_message_must_be_hello_and_only_the_first():
    with pytest.raises(WireError, match=r"^hello: the first message was bye"):
        ingest.decode_hello(ingest.encode_agent_message(Bye(1)))
    with pytest.raises(WireError, match=r"^hello: came a second time"):
        ingest.decode_agent_message(ingest_pb2.AttachRequest(hello=ingest_pb2.Hello()))


def test_unknown_fields_and_kinds_of_a_newer_program_are_passed_over():
    unknown_kind = b"\xfa\x3e\x03abc"  # field 1007, three bytes
    assert ingest.decode_agent_message(ingest_pb2.AttachRequest.FromString(unknown_kind)) is None
    assert ingest.decode_collector_message(ingest_pb2.AttachResponse.FromString(unknown_kind)) is None
    newer = common_pb2.Window.FromString(a_window().SerializeToString() + unknown_kind)
    assert facts.decode_window(newer) == facts.decode_window(a_window())


def test_keys_are_not_printed():
    lease = assignment.Admission(probe_id="p", probe=window.Probe.TCP_RR, key=b"a secret key")
    assert "secret" not in repr(lease)
