"""The page that the doctor writes: what a node is, in words; pure text, since a pod has no terminal library."""

from collections.abc import Iterator, Sequence

from cvmprobe.analysis.diagnosis import Finding, Weight, is_sound, volume_names
from cvmprobe.model.environment import Environment

__all__ = ["page"]

_UNKNOWN = "unknown"
_INDENT = "  "
_NAME_WIDTH = 14


def page(name: str, environment: Environment, findings: Sequence[Finding]) -> str:
    """Return the page about the node ``name``."""
    sections = (
        ("Node", _node(environment)),
        ("Trusted execution", _tee(environment)),
        ("Clock", _clock(environment)),
        ("Engines", _engines(environment)),
        ("Network", _network(environment)),
        ("Disk", _disk(environment)),
        ("Interference", _interference(environment)),
        ("What is missing, and what that costs", _findings(findings)),
    )
    lines = [f"cvmprobe doctor: {name}", ""]
    for title, rows in sections:
        lines += [title, *(_INDENT + row for row in rows), ""]
    return "\n".join([*lines, _verdict(findings)])


def _verdict(findings: Sequence[Finding]) -> str:
    if is_sound(findings):
        return f"Measuring is sound here; notes: {len(findings)}."
    reasons = "; ".join(f"{each.subject}: {each.what}" for each in findings if each.weight is Weight.UNSOUND)
    return f"Measuring is NOT sound here: {reasons}."


def _row(name: str, text: str) -> str:
    return f"{name:<{_NAME_WIDTH}} {text}"


def _of(environment: Environment, name: str) -> str:
    """Return a fact, or ``unknown`` with the reason."""
    fact = next((fact for fact in environment.facts if fact.name == name), None)
    if fact is None:
        return _UNKNOWN
    return f"{_UNKNOWN} ({fact.source})" if fact.value is None else fact.value


def _node(environment: Environment) -> Iterator[str]:
    def of(name: str) -> str:
        return environment.value(name) or _UNKNOWN

    yield _row(
        "kernel",
        f"{of('kernel')} {of('architecture')}; {environment.value('kernel_options') or 'no options of interest'}",
    )
    yield _row("system", f"{of('os')}; cvmprobe {of('cvmprobe')}, image {of('image')}, Python {of('python')}")
    yield _row(
        "CPU", f"{of('cpu_model')}; online {of('cpus_online')}, ours {of('cpus_allowed')}, SMT {_smt(environment)}"
    )
    yield _row("NUMA", f"nodes {of('numa_nodes')}")
    yield _row("hypervisor", environment.value("hypervisor") or "none, or it does not show itself")
    yield _row("vulnerable to", _vulnerable(environment))
    yield _row(
        "CPU quota",
        f"{of('cpu_quota')}; around it {of('cpu_quota_around')}; throttled {of('cpu_throttled_periods')} times",
    )
    if environment.value("container_runtime"):
        yield _row("in the cluster", f"{of('instance_type')} in {of('zone')}; {of('container_runtime')}")
    yield _row("rights", f"user {of('user_id')}, capabilities {of('capabilities')}, seccomp {of('seccomp_mode')}")
    yield _row(
        "bounce buffers", f"{of('swiotlb_bytes')} bytes, {of('swiotlb_used_bytes')} used; at boot: {of('swiotlb_boot')}"
    )


def _smt(environment: Environment) -> str:
    return {"0": "off", "1": "on"}.get(environment.value("smt_active") or "", _UNKNOWN)


def _vulnerable(environment: Environment) -> str:
    prefix = "vulnerability_"
    facts = [fact for fact in environment.facts if fact.name.startswith(prefix)]
    if not facts:
        return _UNKNOWN
    bad = [fact.name.removeprefix(prefix) for fact in facts if (fact.value or "").startswith("Vulnerable")]
    return ", ".join(bad) or "nothing the kernel knows"


def _tee(environment: Environment) -> Iterator[str]:
    tee = environment.tee
    parts = [f"{tee.kind}, confidence {tee.confidence}, not attested"]
    if tee.paravisor is not None:
        parts.append("below a paravisor" if tee.paravisor else "no paravisor")
    if tee.vmpl is not None:
        parts.append(f"VMPL {tee.vmpl}")
    yield "; ".join(parts)
    yield from (f"- {reason}" for reason in tee.evidence)


def _clock(environment: Environment) -> Iterator[str]:
    def of(name: str) -> str:
        return _of(environment, name)

    way = {"yes": "without a system call", "no": "by a system call"}.get(of("clock_vdso"), "in an unknown way")
    yield _row("source", f"{of('clocksource')} (available: {of('clocksources_available')})")
    yield _row("reading", f"{of('clock_cost_ns')} ns, {way} (one takes {of('clock_syscall_ns')} ns)")
    yield _row("resolution", f"{of('clock_resolution_ns')} ns")
    yield _row("wall clock", of("clock_discipline"))
    yield _row("timer", _lateness(environment))


def _lateness(environment: Environment) -> str:
    share = environment.value("timer_late_share")
    if share is None:
        return "not tried: run the doctor on the node itself"
    half_us, most_us = (int(environment.value(f"timer_late_{point}_ns") or 0) / 1_000 for point in ("p50", "p99"))
    return f"wakes {half_us:.0f} us late (p50), {most_us:.0f} us (p99); {float(share):.1%} of the wakes over 1 ms late"


def _engines(environment: Environment) -> Iterator[str]:
    for title, name in (
        ("io_uring", "engine_io_uring"),
        ("libaio", "engine_libaio"),
        ("UDP GSO", "engine_udp_gso"),
        ("UDP GRO", "engine_udp_gro"),
    ):
        yield _row(title, _of(environment, name))
    yield _row("locked memory", _of(environment, "memory_lock_limit"))


def _network(environment: Environment) -> Iterator[str]:
    for device in _named(environment, "interface_", "_mtu"):
        mtu, qdisc, kind, driver, speed, offloads = (
            environment.value(f"interface_{device}_{part}") or _UNKNOWN
            for part in ("mtu", "qdisc", "kind", "driver", "speed_mbit", "offloads")
        )
        if kind != "loopback":
            yield _row(device, f"{kind}, driver {driver}, MTU {mtu}, qdisc {qdisc}, Mbit/s {speed}")
            yield _row("", f"offloads: {offloads}")
    available = _of(environment, "tcp_available_congestion_control")
    yield _row("default route", _of(environment, "default_route"))
    yield _row("TCP", f"{_of(environment, 'tcp_congestion_control')} (available: {available})")
    yield _row("CNI", _of(environment, "cni"))
    yield _row("encryption", _of(environment, "cni_encryption"))


def _named(environment: Environment, prefix: str, suffix: str) -> list[str]:
    """Return what stands between prefix and suffix in the names of facts."""
    names = [fact.name for fact in environment.facts]
    return [name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _disk(environment: Environment) -> Iterator[str]:
    for name in volume_names(environment):
        filesystem, options = (_of(environment, f"volume_{name}_{part}") for part in ("filesystem", "mount_options"))
        yield _row(name, f"{filesystem} ({options})")
        yield _row("", f"on {_of(environment, f'volume_{name}_stack')}")
        direct = environment.value(f"volume_{name}_direct_io")
        if direct is not None:
            yield _row("", f"direct I/O {direct}")
    for disk in _named(environment, "disk_", "_scheduler"):
        kind = environment.value(f"disk_{disk}_dm_type")
        below = f", {kind} over {environment.value(f'disk_{disk}_slaves')}" if kind else ""
        yield _row(disk, f"scheduler {_of(environment, f'disk_{disk}_scheduler')}{below}")


def _interference(environment: Environment) -> Iterator[str]:
    yield _row("pressure", environment.value("pressure_now") or _of(environment, "pressure"))
    yield _row("stolen time", _of(environment, "steal"))


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield "nothing"
    for finding in findings:
        yield _row(
            finding.weight.upper() if finding.weight is Weight.UNSOUND else "note", f"{finding.subject}: {finding.what}"
        )
        yield _row("", f"cost: {finding.cost}")
        if finding.remedy:
            yield _row("", f"remedy: {finding.remedy}")
