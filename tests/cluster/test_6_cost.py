"""What an agent costs its node while only light probes run, and that heavy probes never meet on a node."""

import json

from tests.cluster import kube

USED = """
import json, os, time
def cpu():
    fields = open('/proc/1/stat').read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
first, at = cpu(), time.monotonic()
time.sleep(30)  # what is measured: so long a stretch of its idle life
rss = next(int(line.split()[1]) for line in open('/proc/1/status') if line.startswith('VmRSS'))
print(json.dumps({'cpu': (cpu() - first) / (time.monotonic() - at), 'rss_mib': rss / 1024}))
"""


def test_the_idle_cost_of_an_agent_is_small(deployed):
    used = json.loads(kube.kubectl("exec", kube.pod_on(kube.nodes()[0], "agent"), "--", "python", "-c", USED))
    print(f"\nagent with light probes: {used['cpu']:.4f} CPU, {used['rss_mib']:.1f} MiB (goal: < 0.02 CPU, < 64 MiB)")
    assert used["rss_mib"] < 128
    assert used["cpu"] < 0.2


def test_no_node_is_in_two_heavy_probes_at_once(deployed):
    runs = kube.rows("get", "runs")
    leases: dict[str, list] = {}
    for row in (row for run in runs for row in kube.rows("get", "windows", "--run", run["run_id"])):
        lease = leases.setdefault(row["assignment_id"], [row["end_unix_ms"], 0, set(), row["probe"], row["path"]])
        lease[0] = min(lease[0], row["end_unix_ms"] - row["duration_ns"] // 1_000_000)
        lease[1] = max(lease[1], row["end_unix_ms"])
        lease[2] |= {row["source"].split("/")[0], *([] if ":" in row["target"] else [row["target"].split("/")[0]])}
    timeline = sorted(leases.values(), key=lambda lease: lease[0])
    for start, end, ends, probe, path in timeline:
        at = f"{start - timeline[0][0]:8d} … {end - timeline[0][0]:8d} ms"
        print(f"{at}  {probe:10} {path or '-':10} {' '.join(sorted(ends))}")
    clashes = [
        (one, other)
        for place, one in enumerate(timeline)
        for other in timeline[place + 1 :]
        if other[0] < one[1] and one[2] & other[2]
    ]
    assert timeline
    assert not clashes
