"""A container as a pod is one: our own programs through runc, without rights, under a given seccomp profile.

Its root is this machine's, read-only: /usr, /etc and the Python that runs the tests, with /work to write to.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

USER = 65532
_LINKS = ("bin", "lib", "lib32", "lib64", "sbin")
_SYSTEM = ("/usr", "/etc")
_PATIENCE_S = 240


def run_in_container(bundle, work, profile, *command):
    """Run ``command`` to its end under ``profile``; return (exit code, stdout, stderr).

    ``bundle`` is an empty directory, ``work`` becomes /work. A program killed by the filter exits with 128 + SIGSYS.
    """
    root = bundle / "rootfs"
    root.mkdir()
    for name in _LINKS:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    os.chown(work, USER, USER)
    (bundle / "config.json").write_text(json.dumps(_spec(work, profile, command)))
    name = f"cvmprobe-test-{uuid.uuid4().hex[:12]}"
    with _removed(bundle, name):
        done = subprocess.run(
            [*_runc(bundle), "run", "--bundle", bundle, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    return done.returncode, done.stdout, done.stderr


def missing():
    """Return why no container can be run here; empty when one can."""
    return "" if shutil.which("runc") else "there is no runc (Debian: apt-get install runc)"


def _runc(bundle):
    return ["runc", "--root", bundle / "state"]


@contextmanager
def _removed(bundle, name):
    try:
        yield
    finally:
        subprocess.run([*_runc(bundle), "delete", "--force", name], capture_output=True, timeout=60, check=False)


def _spec(work, profile, command):
    shown = [path for path in dict.fromkeys([*_SYSTEM, *_python_places()]) if Path(path).is_dir()]
    return {
        "ociVersion": "1.0.2",
        "hostname": "container",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": list(command),
            "cwd": "/work",
            "env": [
                f"PATH={Path(sys.executable).parent}:/usr/bin:/bin",
                f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}",
                "PYTHONDONTWRITEBYTECODE=1",
                "HOME=/work",
                "XDG_RUNTIME_DIR=/work",
            ],
            "noNewPrivileges": True,
            "capabilities": {},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "size=64m"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            *(
                {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
                for path in _outermost(shown)
            ),
            {"destination": "/work", "type": "bind", "source": str(work), "options": ["rbind", "rw"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "seccomp": profile,
        },
    }


def _python_places():
    """Return where this Python and its modules are, links followed."""
    places = [sys.prefix, sys.base_prefix, *sys.path]
    return [str(where) for place in places if place for where in (Path(place), Path(place).resolve())]


def _outermost(paths):
    """Drop what lies inside another one."""
    return [path for path in paths if not any(path != other and Path(path).is_relative_to(other) for other in paths)]
