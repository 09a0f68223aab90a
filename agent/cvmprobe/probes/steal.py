"""Whether this machine's steal time means anything: 0 in /proc/stat is also what a silent hypervisor looks like.

KVM sets a bit where it tells its guests (CPUID 0x40000001 EAX[5]), Xen always does, Hyper-V never. Where CPUID does
not answer (another architecture), only a count above 0 shows that somebody counts.
"""

from collections.abc import Callable
from pathlib import Path

from cvmprobe.probes.tee import Registers, hypervisor

__all__ = ["steal_source"]

_KVM_FEATURES = 0x40000001
_KVM_STEAL_TIME = 1 << 5


def steal_source(root: Path = Path("/"), leaf: Callable[[int], Registers | None] | None = None) -> str | None:
    """Return what says that steal time is counted here; None where unknown. ``leaf``: CPUID of another machine."""
    if leaf is None:
        from cvmprobe.native import cpuid

        leaf = cpuid.leaf
    if "no-steal-acc" in _text(root / "proc/cmdline").split():
        return None
    name = hypervisor(leaf)
    if name == "KVMKVMKVM" and (leaf(_KVM_FEATURES) or (0, 0, 0, 0))[0] & _KVM_STEAL_TIME:
        return "CPUID 0x40000001 EAX[5]: KVM tells its guests"
    if name == "XenVMMXenVMM":
        return "CPUID 0x40000000: Xen tells its guests"
    columns = _text(root / "proc/stat").partition("\n")[0].split()
    counted = columns[8:9] not in ([], ["0"])
    return "/proc/stat: already above 0" if counted else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
