"""A responder and probes by hand, as processes: lines while it runs, a summary, json, one clear line when it fails."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cvmprobe

SOURCE = str(Path(cvmprobe.__file__).parents[1])
KEY = "a key of this test, long enough"
WITHIN_S = 60
PROBE = [sys.executable, "-m", "cvmprobe.cli", "probe"]


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": SOURCE, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def responder(environment):
    """Port of a responder that knows KEY."""
    command = [sys.executable, "-m", "cvmprobe.cli", "responder", "--listen", "127.0.0.1:0", "--key", KEY]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.search(r"port (\d+)", process.stderr.readline())[1])
            yield port
            process.send_signal(signal.SIGINT)
            assert process.wait(WITHIN_S) == 0
            assert "sessions" in process.stderr.read()
        finally:
            process.kill()


def run(environment, *arguments, key=KEY):
    given = {**environment, "CVMPROBE_KEY": key} if key else environment
    return subprocess.run(
        [*PROBE, *arguments], env=given, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


def test_lines_while_it_runs_and_a_summary(environment, responder):
    done = run(environment, "tcp-rr", f"127.0.0.1:{responder}", "-t", "0.6", "-i", "0.2")
    assert done.returncode == 0, done.stderr
    spans = re.findall(r"^(\d\.\d-\d\.\d) ", done.stdout, re.MULTILINE)
    assert spans[:3] == ["0.0-0.2", "0.2-0.4", "0.4-0.6"]
    assert "p99" in done.stdout.splitlines()[0]
    assert "operations behind the quantiles" in done.stdout


def test_json_holds_both_ends_to_the_byte(environment, responder):
    asked = ("-t", "0.4", "-i", "0.1", "--streams", "2", "--message-bytes", "16K", "-o", "json")
    done = run(environment, "tcp-stream", f"127.0.0.1:{responder}", *asked)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["parameters"] == {"streams": "2", "message_bytes": "16384"}
    assert not told["interrupted"]
    assert told["error"] is None
    received = sum(window["counters"]["receiver_bytes"] for window in told["windows"])
    assert received == told["totals"]["receiver_bytes"] == told["totals"]["sent_bytes"] > 0


def test_the_byte_cap_ends_it(environment, responder):
    asked = ("--max-bytes", "100000", "-t", "30", "-o", "json")
    done = run(environment, "tcp-stream", f"127.0.0.1:{responder}", *asked)
    assert json.loads(done.stdout)["totals"]["sent_bytes"] == 100_000


def test_ctrl_c_prints_what_is_there(environment, responder):
    command = [*PROBE, "tcp-rr", f"127.0.0.1:{responder}", "-t", "600", "-i", "0.2", "--key", KEY]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            seen = [process.stdout.readline() for _ in range(3)]
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert seen[2].startswith("0.2-0.4")
    assert re.search(r"^ *[\d,]+ +[\d.,]+ +[\d.,]+ .* [\d,]+ +\S", rest, re.MULTILINE), rest
    assert "the figures of this end" in errors


@pytest.mark.parametrize(
    ("arguments", "key", "code", "named"),
    [
        (["tcp-rr", "127.0.0.1:1"], None, 2, "no key: give --key"),
        (["tcp-rr", "127.0.0.1:1"], "short", 2, "the key has 5 bytes"),
        (["tcp-rr", "127.0.0.1:1"], KEY, 1, "nobody answers"),
        (["tcp-rr", "127.0.0.1:one"], KEY, 2, "is no address"),
        (["tcp-rr", "127.0.0.1:1", "--request-bytes", "0"], KEY, 2, "parameter request_bytes = '0'"),
        (["tcp-stream", "127.0.0.1:1", "--streams", "x"], KEY, 2, "parameter streams = 'x'"),
        (["disk", "/no/such/directory"], None, 2, "is not a directory"),
    ],
)
def test_bad_input_is_one_clear_line(environment, arguments, key, code, named):
    done = run({name: value for name, value in environment.items() if name != "CVMPROBE_KEY"}, *arguments, key=key)
    assert done.returncode == code
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_another_key_is_named(environment, responder):
    done = run(environment, "tcp-rr", f"127.0.0.1:{responder}", key="another key, as long as that")
    assert done.returncode == 1
    assert "holds another key" in done.stderr


def test_a_responder_that_cannot_listen_says_so(environment, responder):
    command = [sys.executable, "-m", "cvmprobe.cli", "responder", "--key", KEY, "--listen"]
    taken = subprocess.run(
        [*command, f"127.0.0.1:{responder}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert taken.returncode == 1
    assert "Address already in use" in taken.stderr
    assert "give another address or port with --listen" in taken.stderr
    named = subprocess.run(
        [*command, "no-number:1"], env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert named.returncode == 2
    assert "give a numeric address" in named.stderr
