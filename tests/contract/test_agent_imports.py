"""The agent stays small: what it imports, and what that costs in memory."""

import subprocess
import sys

HEAVY = ("kubernetes", "duckdb", "rich", "typer", "cryptography", "yaml", "numpy", "pandas")
PROGRAM = """
import sys
import cvmprobe.node.__main__
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS:")).split()[1])
"""


def test_the_agent_imports_nothing_it_does_not_need():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    modules, rss_kib = done.stdout.splitlines()
    assert {"grpc", "sqlite3", "cvmprobe"} <= set(modules.split())
    assert set(modules.split()) & set(HEAVY) == set()
    assert int(rss_kib) < 64 * 1024
