"""Log lines of a program without a terminal: one line each, whatever is in it, as key=value."""

import json
import logging
import sys
import time

__all__ = ["start_logging"]


class _OneLine(logging.Formatter):
    """time, level, logger, message; a traceback becomes one more field."""

    def format(self, record: logging.LogRecord) -> str:
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        name = record.name.removeprefix("cvmprobe.")
        line = f"time={at} level={record.levelname.lower()} logger={name} message={json.dumps(record.getMessage())}"
        if record.exc_info:
            line += f" traceback={json.dumps(self.formatException(record.exc_info))}"
        return line


def start_logging(level: str) -> None:
    """Write all logs from ``level`` up to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
