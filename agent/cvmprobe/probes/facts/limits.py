"""What keeps this process from the whole machine: cgroups, system call filter, rights."""

import os
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.probes.cgroup import cpu_groups, memory_limit_file, numbers
from cvmprobe.probes.facts.reading import exists, fact, field_of, file_fact, read, unknown

__all__ = ["limits"]

_SECCOMP = {"0": "none", "1": "strict", "2": "filter"}


def limits(root: Path) -> Iterator[Fact]:
    """Yield quotas, throttling so far, and rights."""
    groups = cpu_groups(root)
    yield from _quotas(groups)
    yield _memory(root)
    yield fact("pressure", "/proc/pressure/cpu", lambda: "counted" if read(root / "proc/pressure/cpu") else None)
    status = root / "proc/self/status"
    yield fact("seccomp_mode", "/proc/self/status", lambda: _seccomp(status))
    yield fact("no_new_privileges", "/proc/self/status", partial(field_of, status, "NoNewPrivs"))
    yield fact("capabilities", "/proc/self/status", partial(field_of, status, "CapEff"))
    yield Fact("user_id", str(os.geteuid()), "geteuid")
    yield fact("memory_lock_limit", "getrlimit", lambda: _limit(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]))
    yield file_fact(root, "io_uring_disabled", "proc/sys/kernel/io_uring_disabled")


def _quotas(groups: list[Path]) -> Iterator[Fact]:
    """Yield the quota of our own group, and the tightest of those around it that we can see."""
    if not groups:
        reason = "cgroup: no cpu.stat that counts throttling"
        yield from (unknown(name, reason) for name in ("cpu_quota", "cpu_quota_around", "cpu_throttled_periods"))
        return
    own, *around = groups
    yield fact("cpu_quota", str(own), partial(_cpu_quota, own))
    yield fact("cpu_quota_around", f"{len(around)} groups around {own}", lambda: _tightest(around))
    throttled = sum(numbers(group / "cpu.stat").get("nr_throttled", 0) for group in groups)
    yield Fact("cpu_throttled_periods", str(throttled), f"{own}/cpu.stat and those around it")


def _cpu_quota(group: Path) -> str:
    """Return quota and period in us, as cgroup v2 writes them: ``max 100000`` is no limit."""
    if exists(group / "cpu.max"):
        return read(group / "cpu.max")
    quota = read(group / "cpu.cfs_quota_us")
    return f"{'max' if quota == '-1' else quota} {read(group / 'cpu.cfs_period_us')}"


def _tightest(groups: list[Path]) -> str | None:
    quotas = [quota for group in groups if (quota := _cpu_quota_or_none(group))]
    return min(quotas, key=_cpus, default=None)


def _cpu_quota_or_none(group: Path) -> str | None:
    try:
        return _cpu_quota(group)
    except OSError:  # the root group has none
        return None


def _cpus(quota: str) -> float:
    share, period = quota.split()
    return float("inf") if share == "max" else int(share) / int(period)


def _memory(root: Path) -> Fact:
    path = memory_limit_file(root)
    if path is None:
        return unknown("memory_limit", "cgroup: no memory.max or memory.limit_in_bytes")
    return fact("memory_limit", str(path), lambda: read(path) or None)


def _seccomp(status: Path) -> str | None:
    mode = field_of(status, "Seccomp")
    return None if mode is None else _SECCOMP.get(mode, mode)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
