"""What this node is, as far as a process without privileges can read it. Each fact names its source.

A fact that cannot be read has the value None, and its source says why. Nothing is written.
"""

from collections.abc import Mapping
from pathlib import Path

from cvmprobe.model.environment import Environment
from cvmprobe.probes.facts.bounce import bounce
from cvmprobe.probes.facts.clock import clock
from cvmprobe.probes.facts.engines import engines
from cvmprobe.probes.facts.evidence import gather
from cvmprobe.probes.facts.kernel_log import kernel_log
from cvmprobe.probes.facts.limits import limits
from cvmprobe.probes.facts.network import network
from cvmprobe.probes.facts.processor import processor
from cvmprobe.probes.facts.storage import block_devices, volume_stacks
from cvmprobe.probes.facts.system import system
from cvmprobe.probes.tee import judge_tee

__all__ = ["environment"]

_NO_VOLUMES: Mapping[str, Path] = {}


def environment(root: Path = Path("/"), volumes: Mapping[str, Path] = _NO_VOLUMES) -> Environment:
    """Read all facts of this node and of what ``volumes`` (name: directory) lie on. Takes some ms, raises nothing.

    ``root`` stands for ``/`` wherever a file is read.
    """
    log = kernel_log(root)
    facts = [
        *system(root),
        *processor(root),
        *clock(root),
        *limits(root),
        *engines(),
        *network(root),
        *block_devices(root),
        *volume_stacks(root, volumes),
        *bounce(root, log),
    ]
    return Environment(tuple(facts), judge_tee(gather(root, log)))
