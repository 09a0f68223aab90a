"""The fixed work against slow oracles in plain Python: it is done, all of it, and nothing else is counted."""

import os
import resource
import struct
import time

import pytest
from tests.native.leaks import assert_no_leak

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Endpoint, NodeTarget, Role
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe
from cvmprobe.native import cpuid
from cvmprobe.native.compute import Compute
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.compute import ComputeParameters, notes_on, size_of
from cvmprobe.probes.execution import Setup

MASK = (1 << 64) - 1
X86 = cpuid.leaf(0) is not None
needs_x86 = pytest.mark.skipif(not X86, reason="this processor has no CPUID")
KERNELS = {
    "integer": {},
    "chase": {"size_bytes": 64 * 1024},
    "triad": {"size_bytes": 3 * 8 * 2048},
    "aes": {"engine": "aes-plain"},
    "page_fault": {},
    "syscall": {},
    "wakeup": {},
    **({"cpuid": {}} if X86 else {}),
}


def run(kernel, *, repetitions=3, **parameters):
    """Run to the end; return (last snapshot, result, facts)."""
    engine = Compute(kernel=kernel, repetitions=repetitions, duration_ms=60_000, **parameters)
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + 60 * 10**9)
    engine.stop()
    assert engine.error is None
    outcome = last, engine.result, engine.facts
    engine.close()
    return outcome


def splitmix(state):
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return state, z ^ z >> 31


def integer_oracle(steps):
    x = 0
    for _ in range(steps):
        x = (x * 6364136223846793005 + 1442695040888963407) & MASK
        x ^= x >> 29
    return x


def chase_cycle(lines):
    following, state = list(range(lines)), 0
    for i in range(lines - 1, 0, -1):
        state, value = splitmix(state)
        other = value % i
        following[i], following[other] = following[other], following[i]
    return following


def times(a, b):
    """Multiply in GF(2^8), bit by bit."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


def substitute(value):
    inverse = next((x for x in range(256) if times(value, x) == 1), 0)
    bits = [inverse >> i & 1 for i in range(8)]
    return sum(
        (bits[i] ^ bits[(i + 4) % 8] ^ bits[(i + 5) % 8] ^ bits[(i + 6) % 8] ^ bits[(i + 7) % 8] ^ (0x63 >> i & 1)) << i
        for i in range(8)
    )


BOX = [substitute(value) for value in range(256)]


def round_keys(key):
    words, constant = [list(key[i : i + 4]) for i in range(0, 16, 4)], 1
    for i in range(4, 44):
        word = words[i - 1]
        if i % 4 == 0:
            word = [BOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = times(constant, 2)
        words.append([a ^ b for a, b in zip(words[i - 4], word, strict=True)])
    return [[byte for word in words[i : i + 4] for byte in word] for i in range(0, 44, 4)]


def encrypt(key, block):
    keys = round_keys(key)
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number in range(1, 11):
        state = [BOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < 10:
            mix = [[2, 3, 1, 1], [1, 2, 3, 1], [1, 1, 2, 3], [3, 1, 1, 2]]
            columns = [state[i : i + 4] for i in range(0, 16, 4)]
            state = [
                times(row[0], c[0]) ^ times(row[1], c[1]) ^ times(row[2], c[2]) ^ times(row[3], c[3])
                for c in columns
                for row in mix
            ]
        state = [a ^ b for a, b in zip(state, keys[number], strict=True)]
    return bytes(state)


def aes_oracle(blocks):
    total = 0
    for i in range(blocks):
        low, high = struct.unpack("<QQ", encrypt(bytes(range(16)), struct.pack("<QQ", i, 0)))
        total ^= low ^ high
    return total


def test_the_oracle_of_aes_is_aes():
    """The example of FIPS 197, appendix C.1."""
    plain = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert encrypt(bytes(range(16)), plain).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


def test_integer():
    assert run("integer", work_units=5_000)[1] == integer_oracle(5_000)


@pytest.mark.parametrize("accesses", [1, 1023, 2500])
def test_chase_visits_every_line_before_one_twice(accesses):
    following = chase_cycle(1024)
    at, visited = 0, set()
    for step in range(accesses):
        visited.add(at)
        at = following[at]
        assert len(visited) == min(step + 1, 1024)
    assert run("chase", size_bytes=1024 * 64, work_units=accesses)[1] == at


@pytest.mark.parametrize("granules", [1, 3, 9])
def test_triad(granules):
    elements = 2048
    done = min(granules * 512, elements)
    expected = sum((i & 1023) + 3 * (i * 7 & 1023) for i in range(0, done, 512))
    assert run("triad", size_bytes=elements * 3 * 8, work_units=granules * 24 * 512)[1] == expected


def engines_of_aes():
    found = ["aes-plain"]
    try:
        Compute(kernel="aes", engine="aes-ni").close()
    except UsageError:
        return found
    return [*found, "aes-ni"]


@pytest.mark.parametrize("engine", engines_of_aes())
def test_aes(engine):
    _, result, facts = run("aes", engine=engine, work_units=2 * 64 * 16)
    assert result == aes_oracle(2 * 64)
    assert facts["engine"] == engine


def test_the_kernel_counts_as_many_page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _, result, _ = run("page_fault", repetitions=2, work_units=10 * 512)
    assert result == 10 * 512
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before >= 2 * 10 * 512


def test_syscall():
    assert run("syscall", work_units=1000)[1] == 1000 * os.getppid()


@pytest.mark.parametrize("placement", ["same", "split", "inherit"])
def test_wakeup_takes_turns_and_sleeps(placement):
    """On two CPUs too nothing is counted that was handed over between two awake; a few are woken as they lie down."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    _, result, _ = run("wakeup", repetitions=1, work_units=2000, placement=placement)
    assert result == 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before >= 1900


@needs_x86
def test_cpuid():
    _, result, facts = run("cpuid", work_units=100)
    assert result == 100 * sum(cpuid.leaf(0)) & MASK
    kinds = [("cpuid-bare-metal", "instructions"), ("cpuid", "exits")]
    here = kinds.pop(cpuid.leaf(1)[2] >> 31)
    assert (facts["engine"], facts["unit"]) == here
    with pytest.raises(UsageError, match="no kernel 'cpuid' done by engine"):
        Compute(kernel="cpuid", engine=kinds[0][0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_whole_repetitions_alone_are_counted(kernel):
    last, _, facts = run(kernel, repetitions=4, repetition_ms=5, **KERNELS[kernel])
    spent = last.histograms["unit_fs"]
    assert last.finished
    assert last.counters["repetitions"] == spent.count == 4
    mean_fs = last.counters["busy_ns"] * 1_000_000 / last.counters["work_units"]
    assert spent.sum / spent.count == pytest.approx(mean_fs, rel=1e-3, abs=1)
    assert facts["unit"] in {"steps", "accesses", "bytes", "faults", "calls", "wake-ups", "exits", "instructions"}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_repetition_that_is_cut_short_counts_for_nothing(kernel):
    engine = Compute(kernel=kernel, repetition_ms=60_000, **KERNELS[kernel])
    engine.arm()
    engine.start()
    begin = time.monotonic()
    engine.stop()
    assert time.monotonic() - begin < 2  # 0.2 s is meant, under load too
    assert engine.snapshot().counters["repetitions"] == 0
    assert engine.snapshot().histograms["unit_fs"].count == 0
    assert engine.result is None
    engine.close()


def test_the_deadline_ends_it():
    engine = Compute(kernel="integer", repetition_ms=60_000, duration_ms=50)
    engine.arm()
    engine.start()
    assert engine.snapshot(engine.started_ns + 30 * 10**9).finished
    assert engine.snapshot().counters["repetitions"] == 0
    engine.close()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel": "magic"}, "no kernel 'magic'"),
        ({"kernel": "integer", "engine": "aes-ni"}, "by engine 'aes-ni'"),
        ({"kernel": "chase", "size_bytes": 64}, "size_bytes = 64: give at least"),
        ({"kernel": "triad", "size_bytes": 1 << 20, "work_units": 100}, "work_units = 100: give a multiple of 12288"),
        ({"kernel": "integer", "repetitions": 0}, "0 repetitions"),
    ],
)
def test_what_cannot_be_done_is_refused(parameters, message):
    with pytest.raises(UsageError, match=message):
        Compute(**parameters)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_leaks(kernel):
    assert_no_leak(lambda: run(kernel, repetitions=1, repetition_ms=1, **KERNELS[kernel]))


def test_nothing_leaks_from_an_engine_that_is_dropped():
    def drop():
        engine = Compute(kernel="chase", size_bytes=1 << 20)
        engine.arm()

    assert_no_leak(drop)


def instance(**parameters):
    asked = {name: str(value) for name, value in parameters.items()}
    return Instance("0" * 32, Probe.COMPUTE, Endpoint("n", Role.POD), NodeTarget(), Direction.NONE, 1, asked)


def execute(*, duration_ms=30_000, **parameters):
    execution = prepare(Setup(instance(**parameters), 50, duration_ms, 0))
    list(execution.observe())
    return execution.result()


def test_windows_of_the_probe_add_up_to_its_totals():
    result = execute(kernel="chase", size_bytes=1 << 16, repetitions=5, repetition_ms=30)
    assert result.error is None
    assert len(result.windows) > 1
    for name in ("repetitions", "work_units", "busy_ns"):
        assert sum(window.counters[name] for window in result.windows) == result.totals[name]
    assert sum(window.histograms["unit_fs"].count for window in result.windows) == 5
    assert {window.phase for window in result.windows} == {Phase.STEADY}
    assert {window.facts["size_bytes"] for window in result.windows} == {str(1 << 16)}
    assert all(Flag.CUT not in window.flags for window in result.windows)


def test_the_probe_refuses_a_size_for_what_has_none():
    with pytest.raises(UsageError, match="parameter level: kernel integer has no size"):
        execute(kernel="integer", level="l1")
    with pytest.raises(UsageError, match="parameter engine = 'aes-ni': only kernel aes"):
        execute(kernel="integer", engine="aes-ni")


def caches(folder, *found):
    for i, (kind, level, size) in enumerate(found):
        (folder / f"index{i}").mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / f"index{i}" / name).write_text(f"{text}\n")
    return folder


def test_sizes_come_from_what_the_kernel_tells_of_its_caches(tmp_path):
    told = caches(tmp_path, ("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "1024K"))
    assert size_of(ComputeParameters(kernel="chase", level="l1"), told) == 16 << 10
    assert size_of(ComputeParameters(kernel="chase", level="l2"), told) == 512 << 10
    assert size_of(ComputeParameters(kernel="chase", level="l1", size_bytes=77), told) == 77
    assert size_of(ComputeParameters(kernel="chase", level="memory"), told) <= 64 << 20
    with pytest.raises(UsageError, match="tells of no such cache; give size_bytes"):
        size_of(ComputeParameters(kernel="chase", level="l3"), told)


MEMORY = ComputeParameters(kernel="chase")
BIG_CACHE = ("Unified", 3, "393216K")  # of a server whose caches the kernel adds up


def test_memory_that_is_not_beyond_the_last_cache_says_so(tmp_path):
    big, none = (tmp_path / name for name in ("big", "none"))
    for folder in (big, none):
        folder.mkdir()
    caches(big, BIG_CACHE)
    assert size_of(MEMORY, big) <= 512 << 20
    assert "not far beyond the last cache of 402653184" in notes_on(MEMORY, 512 << 20, big)["fallback"]
    assert notes_on(MEMORY, 1 << 30, big) == {"pages": "small", "last_cache_bytes": "402653184"}
    for asked in (ComputeParameters(kernel="chase", level="l3"), ComputeParameters(kernel="chase", size_bytes=99)):
        assert "fallback" not in notes_on(asked, 99, big)
    assert size_of(MEMORY, none) > size_of(MEMORY, caches(tmp_path, ("Unified", 2, "1024K")))
    assert "tells of no cache" in notes_on(MEMORY, 512 << 20, none)["fallback"]


def test_a_fallback_flags_every_window_and_the_usual_size_none():
    small, usual = (
        execute(kernel="triad", repetitions=2, repetition_ms=5, **more) for more in ({"size_bytes": 1 << 20}, {})
    )
    for result in (small, usual):
        assert result.error is None
        degraded = {Flag.DEGRADED in window.flags for window in result.windows}
        assert degraded == {"fallback" in result.windows[0].facts}
