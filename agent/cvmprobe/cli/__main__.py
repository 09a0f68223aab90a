"""Entry point of ``cvmprobe`` and ``kubectl cvmprobe``: runs a verb, and tells what went wrong in one line and a code.

0    done
1    failed: something refused, broke or did not answer
2    the request itself is wrong
3    partial: some of the result is there, some is not
130  Ctrl-C (128 + the number of the signal that ended us)
"""

import os
import sys

from cvmprobe.errors import ProbeError

__all__ = ["kubectl", "main"]

_INTERRUPTED = 130
_EXTRAS = {
    "cryptography": "collector",
    "duckdb": "collector",
    "grpc_health": "collector",
    "grpc_reflection": "collector",
    "kubernetes": "cli",
    "psutil": "agent",
    "rich": "cli",
    "typer": "cli",
    "yaml": "cli",
}


def kubectl() -> int:
    """Run the command line as kubectl's plugin: the same, but the cluster is preferred to a local run."""
    return main(name="kubectl cvmprobe")


def main(arguments: list[str] | None = None, name: str = "cvmprobe") -> int:
    """Run the command line, called by ``name``, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign still gets the figures
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments, name)
        sys.stdout.flush()
    except ProbeError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), 1)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it ends
        return ProbeError.exit_code
    except OSError as error:
        return _fail(str(error), 1)
    return code


def _run(arguments: list[str], name: str) -> int:
    from typer.exceptions import TyperException
    from typer.main import get_command

    from cvmprobe.cli.app import app

    try:
        code = get_command(app).main(arguments, prog_name=name, standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = name if context is None else context.command_path
        message = error.format_message().replace(": Value error, ", ": ").rstrip(".")  # words of typer's validator
        return _fail(f"{message} (see '{command} --help')", error.exit_code)
    return code if isinstance(code, int) else 0


def _missing(error: ModuleNotFoundError) -> str:
    module = error.name or ""
    extra = _EXTRAS.get(module.partition(".")[0])
    if extra is not None:
        return f"this needs the {extra} extra (no module {module!r}): pip install 'cvmprobe[{extra}]'"
    if module.startswith("cvmprobe.native."):
        return f"this needs the native engines ({module} is not built): install cvmprobe on Linux with a C compiler"
    return f"broken installation: no module {module!r}; install cvmprobe again"


def _fail(message: str, code: int) -> int:
    """Print an error as one line, whatever it holds."""
    sys.stderr.write(f"cvmprobe: {' '.join(message.split())}\n")  # rich may be what is missing
    return code


if __name__ == "__main__":
    sys.exit(main())
