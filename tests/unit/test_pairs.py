"""The statistics of the benches: pairing, ratio, interval."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import pairs

sys.path.pop(0)


@pytest.mark.parametrize("count", range(30))
def test_interval_is_the_narrowest_with_95_percent(count):
    def coverage(low):
        return 1 - 2 * sum(math.comb(count, k) for k in range(low + 1)) / 2**count

    ranks = pairs.interval_ranks(count)
    if ranks is None:
        assert coverage(0) < 0.95
        return
    assert ranks[1] == count - 1 - ranks[0]
    assert coverage(ranks[0]) >= 0.95 > coverage(ranks[0] + 1)


def test_pairs_alternate_and_keep_their_sides():
    order = []

    def side(name, value):
        def run():
            order.append(name)
            return {"speed": value, "cost": 10 * value}

        return run

    speed, cost = pairs.compare(
        "x",
        ours=side("a", 2.0),
        peer=side("b", 1.0),
        peer_version="p 1",
        figures=[pairs.Figure("speed", "u", True), pairs.Figure("cost", "v", False)],
        settings={},
        count=4,
    )
    assert "".join(order) == "abbaabba"
    assert (speed.name, speed.unit, speed.pairs) == ("x speed", "u", ((2.0, 1.0),) * 4)
    assert (cost.name, cost.unit, cost.pairs) == ("x cost", "v", ((20.0, 10.0),) * 4)
    assert (speed.ratio, cost.ratio) == (2.0, 0.5)
    assert speed.interval is None


def test_smaller_is_better_turns_the_ratio():
    result = pairs.Comparison("x", "p", "ns", False, {}, ((50.0, 100.0),) * 6)
    assert result.ratio == 2.0
    assert result.interval == (2.0, 2.0)


def test_json_keeps_every_pair(tmp_path):
    comparison = pairs.Comparison("x", "p", "u", True, {"k": "v"}, ((1.0, 2.0), (3.0, 4.0)))
    pairs.write_json(tmp_path / "deep" / "x.json", [comparison])
    kept = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert kept["comparisons"][0]["pairs"] == [[1.0, 2.0], [3.0, 4.0]]
    assert kept["comparisons"][0]["ratio"] == pytest.approx(0.625)
