"""What runs inside a namespace, as a process of its own: a responder, or one execution of a probe.

responder HOST     prints its port; each line of stdin admits: SESSION KEY PROBE BYTES, and is echoed
probe              reads a pickled Setup from stdin; writes pickled windows as they end, then what is left;
                   a line on stdin thereafter stops it
"""

import pickle
import sys
import threading

from cvmprobe.model.window import Probe
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.responder import Responder

VALID_MS = 10 * 60 * 1000


def respond(host: str) -> None:
    responder = Responder(host, 0)
    print(responder.port, flush=True)
    for line in sys.stdin:
        session_id, key, probe, max_bytes = line.split()
        responder.admit(
            bytes.fromhex(session_id), bytes.fromhex(key), Probe(probe), valid_for_ms=VALID_MS, max_bytes=int(max_bytes)
        )
        print(line.strip(), flush=True)
    responder.close()


def measure() -> None:
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    execution = prepare(pickle.load(sys.stdin.buffer))

    def stop_when_told() -> None:
        if sys.stdin.buffer.readline():
            execution.stop()

    threading.Thread(target=stop_when_told, daemon=True).start()
    for window in execution.observe():
        pickle.dump(window, out)
        out.flush()
    result = execution.result()
    pickle.dump((result.windows, result.totals, result.samples, str(result.error or "")), out)
    out.flush()


if __name__ == "__main__":
    respond(sys.argv[2]) if sys.argv[1] == "responder" else measure()
