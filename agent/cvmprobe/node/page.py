"""The page that the doctor writes: what a node is, in words; pure text, since a pod has no terminal library."""

from collections.abc import Iterator, Sequence

from cvmprobe.analysis.diagnosis import Finding, Weight, is_sound, number_of, volume_names
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

    options = environment.value("kernel_options")
    told = "options unknown" if options is None else options or "no options of interest"
    yield _row("kernel", f"{of('kernel')} {of('architecture')}; {told}")
    yield _row("system", f"{of('os')}; cvmprobe {of('cvmprobe')}, image {of('image')}, Python {of('python')}")
    yield _row(
        "CPU", f"{of('cpu_model')}; online {of('cpus_online')}, ours {of('cpus_allowed')}, SMT {_smt(environment)}"
    )
    yield _row("NUMA", f"nodes {of('numa_nodes')}")
    yield _row("hypervisor", {"none": "none shows itself"}.get(of("hypervisor"), of("hypervisor")))
    yield _row("vulnerable to", _vulnerable(environment))
    yield _row("CPU quota", _quotas(environment))
    if environment.value("container_runtime"):
        yield _row("in the cluster", f"{of('instance_type')} in {of('zone')}; {of('container_runtime')}")
    yield _row("rights", f"user {of('user_id')}, {_capabilities(environment)}, seccomp {of('seccomp_mode')}")
    yield _row("bounce buffers", _bounce(environment))


def _quotas(environment: Environment) -> str:
    own = _of(environment, "cpu_quota")
    if own.startswith(_UNKNOWN):
        return own
    around = environment.value("cpu_quota_around")
    throttled = environment.value("cpu_throttled_periods") or _UNKNOWN
    outer = "none seen" if around is None else _quota(around)
    return f"{_quota(own)}; of the groups around: {outer}; stopped by it {throttled} times so far"


def _quota(text: str) -> str:
    """Write the kernel's ``50000 100000`` (us of each period) as a person says it."""
    return "none" if text.startswith("max") else f"{text.replace(' ', ' of each ')} us"


def _capabilities(environment: Environment) -> str:
    told = environment.value("capabilities")
    if told is None:
        return "capabilities unknown"
    return f"capabilities {told}" if told.strip("0") else "no capabilities"


def _bounce(environment: Environment) -> str:
    size, used, boot = (environment.value(f"swiotlb_{name}") for name in ("bytes", "used_bytes", "boot"))
    parts = [f"{size} bytes"] * (size is not None) + [f"{used} used"] * (used is not None)
    parts += [f"at boot: {boot}"] * (boot is not None)
    return ", ".join(parts) or _of(environment, "swiotlb_bytes")


def _smt(environment: Environment) -> str:
    return {"0": "off", "1": "on"}.get(environment.value("smt_active") or "", _UNKNOWN)


def _vulnerable(environment: Environment) -> str:
    prefix = "vulnerability_"
    facts = [fact for fact in environment.facts if fact.name.startswith(prefix)]
    if not facts:
        return _of(environment, "vulnerabilities")
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
    available = environment.value("clocksources_available")
    yield _row("source", f"{of('clocksource')} (available: {available})" if available else of("clocksource"))
    yield _row("reading", f"{of('clock_cost_ns')} ns, {way} (one takes {of('clock_syscall_ns')} ns)")
    yield _row("resolution", f"{of('clock_resolution_ns')} ns")
    yield _row("wall clock", of("clock_discipline"))
    yield _row("timer", _lateness(environment))


def _lateness(environment: Environment) -> str:
    if environment.value("timer_late_share") is None:
        return "not tried: run the doctor on the node itself"
    half_us, most_us = (_in_us(environment, f"timer_late_{point}_ns") for point in ("p50", "p99"))
    percent = "unknown" if (number := number_of(environment, "timer_late_share")) is None else f"{number:.1%}"
    return f"wakes {half_us} us late (p50), {most_us} us (p99); {percent} of the wakes over 1 ms late"


def _in_us(environment: Environment, name: str) -> str:
    number = number_of(environment, name)
    return _UNKNOWN if number is None else f"{number / 1_000:.0f}"


def _engines(environment: Environment) -> Iterator[str]:
    for title, name in (
        ("io_uring", "engine_io_uring"),
        ("libaio", "engine_libaio"),
        ("UDP GSO", "engine_udp_gso"),
        ("UDP GRO", "engine_udp_gro"),
    ):
        yield _row(title, _of(environment, name))
    lock = _of(environment, "memory_lock_limit")
    yield _row("locked memory", f"at most {lock} bytes" if lock.isdecimal() else lock)


def _network(environment: Environment) -> Iterator[str]:
    devices = [name for name in _named(environment, "interface_", "_mtu") if not _is_loopback(environment, name)]
    down = [name for name in devices if environment.value(f"interface_{name}_state") == "down"]
    for device in devices:
        if device not in down:
            yield from _device(environment, device)
    if down:
        yield _row("down", " ".join(down))
    if not devices:
        yield _row("devices", _of(environment, "interfaces"))
    yield _row("default route", f"{_of(environment, 'default_route')}; IPv6: {_of(environment, 'default_route_v6')}")
    yield _row("TCP", _congestion_control(environment))
    yield _row("CNI", _of(environment, "cni"))
    yield _row("CNI encryption", _of(environment, "cni_encryption"))


def _is_loopback(environment: Environment, device: str) -> bool:
    return device == "lo" or environment.value(f"interface_{device}_kind") == "loopback"


def _device(environment: Environment, device: str) -> Iterator[str]:
    mtu, qdisc, kind, driver, speed, offloads = (
        environment.value(f"interface_{device}_{part}") or _UNKNOWN
        for part in ("mtu", "qdisc", "kind", "driver", "speed_mbit", "offloads")
    )
    below = environment.value(f"interface_{device}_carried_by")
    carried = f" over {below}" if below else ""
    yield _row(device, f"{kind}{carried}, driver {driver}, MTU {mtu}, qdisc {qdisc}, Mbit/s {speed}")
    yield _row("", f"offloads: {offloads}")


def _congestion_control(environment: Environment) -> str:
    chosen, available = (environment.value(f"tcp_{name}congestion_control") for name in ("", "available_"))
    if chosen is None:
        return _of(environment, "tcp_congestion_control")
    return f"{chosen} (available: {available or _UNKNOWN})"


def _named(environment: Environment, prefix: str, suffix: str) -> list[str]:
    """Return what stands between prefix and suffix in the names of facts."""
    names = [fact.name for fact in environment.facts]
    return [name[len(prefix) : -len(suffix)] for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _disk(environment: Environment) -> Iterator[str]:
    for name in volume_names(environment):
        filesystem, options = (_of(environment, f"volume_{name}_{part}") for part in ("filesystem", "mount_options"))
        yield _row(name, f"{filesystem} ({options})")
        yield _row("", f"on {_of(environment, f'volume_{name}_stack')}")
        yield _row("", f"direct I/O {_tried(environment, f'volume_{name}_direct_io')}")
    disks = _named(environment, "disk_", "_scheduler")
    for disk in disks:
        kind, below = (environment.value(f"disk_{disk}_{part}") for part in ("dm_type", "slaves"))
        stack = f"; {kind or 'a device'} over {below}" if below else ""
        yield _row(disk, f"scheduler {_of(environment, f'disk_{disk}_scheduler')}{stack}")
    if not disks:
        yield _row("disks", {"0": "none of its own"}.get(_of(environment, "disks"), _of(environment, "disks")))


def _tried(environment: Environment, name: str) -> str:
    """Return what came of a trial; an agent that only tells what it is tries nothing."""
    looked = any(fact.name == name for fact in environment.facts)
    return _of(environment, name) if looked else "not tried: run the doctor on the node itself"


def _interference(environment: Environment) -> Iterator[str]:
    counted = {"counted": "counted; not looked at: run the doctor on the node itself"}
    pressure = _of(environment, "pressure")
    yield _row("pressure", environment.value("pressure_now") or counted.get(pressure, pressure))
    told = [f"told ({fact.source})" for fact in environment.facts if fact.name == "steal" and fact.value]
    yield _row("stolen time", "".join(told) or _of(environment, "steal"))


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
