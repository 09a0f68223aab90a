"""A line that is opened anew where that can help, and a watch that goes on over it with each window once."""

import asyncio
import dataclasses
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest

from cvmprobe.cli import follow as following
from cvmprobe.cli import line as lines
from cvmprobe.cli.follow import follow
from cvmprobe.cli.line import Line
from cvmprobe.errors import DeniedError, UnreachableError, UsageError
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.query import Missed, Selection
from cvmprobe.model.window import Direction, Instance, Phase, Probe, Window

ALL = Selection()
GONE, NO = UnreachableError("gone"), DeniedError("no")


@pytest.fixture(autouse=True)
def sleeps(monkeypatch):
    """Sleep no longer than a moment, and remember for how long it should have been; the clock goes on by that."""
    slept, now = [], [1000.0]

    async def sleep(delay):
        slept.append(delay)
        now[0] += delay

    monkeypatch.setattr(lines.asyncio, "sleep", sleep)
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    return slept


class Way:
    """Opens what it is given, one after the other: a client, or an error."""

    def __init__(self, *openings, lasting=True):
        self.openings = list(openings)
        self.lasting = lasting
        self.told = []
        self.closed = 0

    @asynccontextmanager
    async def open(self):
        opening = self.openings.pop(0) if len(self.openings) > 1 else self.openings[0]
        if isinstance(opening, Exception):
            raise opening
        try:
            yield opening
        finally:
            self.closed += 1

    def line(self):
        return Line(self.open, lasting=self.lasting, tell=self.told.append)


async def work(line, steps):
    """Enter the line for each step until one returns; a step gets the client and may fail."""
    while True:
        async with line as client:
            return await steps.pop(0)(line, client)


def failing(error, *, works=True):
    async def step(line, client):
        if works:
            line.works()
        raise error

    return step


async def done(line, client):
    return client


async def test_what_fails_at_first_is_not_tried_again(sleeps):
    for opening in (GONE, NO, UsageError("bad")):
        with pytest.raises(type(opening)):
            await work(Way(opening).line(), [done])
    for error in (GONE, NO):
        with pytest.raises(type(error)):
            await work(Way("client").line(), [failing(error, works=False)])
    assert sleeps == []


async def test_a_way_that_broke_is_opened_again_and_told_once():
    way = Way("one", GONE, GONE, "two")
    assert await work(way.line(), [failing(UnreachableError("cut")), done]) == "two"
    assert way.told == ["cut; trying again"]
    assert way.closed == 2


async def test_the_attempts_come_slower_and_end(sleeps):
    way = Way("one", GONE)
    with pytest.raises(UnreachableError, match=r"^gone$"):
        await work(way.line(), [failing(UnreachableError("cut"))])
    assert sleeps[:6] == [0.0, 0.5, 1.0, 2.0, 4.0, 4.0]
    assert lines._GIVE_UP_S <= sum(sleeps) <= lines._GIVE_UP_S + 4.0


async def test_each_break_has_patience_of_its_own(sleeps):
    way = Way(*["client", GONE, GONE, GONE] * 100, "last")
    assert await work(way.line(), [*[failing(GONE)] * 100, done]) == "last"
    assert len(way.told) == 100


async def test_a_way_that_does_not_last_is_not_tried_again(sleeps):
    for error in (GONE, NO):
        way = Way("one", "two", lasting=False)
        with pytest.raises(type(error)):
            await work(way.line(), [failing(error)])
        assert way.told == []


async def test_a_token_that_ended_is_renewed_without_a_word_and_a_refusal_stays():
    way = Way("one", "two", "three")
    assert await work(way.line(), [failing(NO), failing(NO), done]) == "three"
    assert way.told == []
    with pytest.raises(DeniedError):
        await work(Way("one", "two").line(), [failing(NO), failing(NO, works=False)])
    with pytest.raises(DeniedError):
        await work(Way("one", NO).line(), [failing(NO)])


async def test_other_errors_and_interrupts_pass(sleeps):
    for error in (UsageError("bad"), asyncio.CancelledError(), KeyError("bug")):
        way = Way("one", "two")
        with pytest.raises(type(error)):
            await work(way.line(), [failing(error)])
        assert way.closed == 1


async def test_what_the_way_knows_better_is_told():
    class Knowing(Way):
        @asynccontextmanager
        async def open(self):
            async with super().open() as client:
                try:
                    yield client
                except UnreachableError as error:
                    raise UnreachableError("the pod is gone") from error

    way = Knowing("one", "two")
    assert await work(way.line(), [failing(GONE), done]) == "two"
    assert way.told == ["the pod is gone; trying again"]
    with pytest.raises(UnreachableError, match=r"^the pod is gone$"):
        await work(Knowing("one", lasting=False).line(), [failing(GONE)])


def window(end, node="a", lease="plan", **counters):
    target = EndpointTarget(Endpoint("z", Role.POD), Path.INTER_NODE)
    instance = Instance(lease, Probe.TCP_RR, Endpoint(node, Role.POD), target, Direction.BOTH, 1)
    return Window(instance, end, 1_000_000, Phase.STEADY, counters or {"transactions": end})


class Client:
    """Has some windows to come, then breaks; and a store."""

    def __init__(self, *live, stored=(), error=GONE):
        self.live, self.stored, self.error = live, stored, error
        self.since = None

    @asynccontextmanager
    async def watching(self, selection):
        async def windows():
            for item in self.live:
                yield item
            raise self.error

        yield windows()

    async def query_windows(self, selection, span):
        self.since = span.start_unix_ms
        for item in self.stored:
            if item.end_unix_ms >= span.start_unix_ms:
                yield item


async def seen(way, *, stored=True):
    shown = []
    watch = follow(way.line(), ALL, way.told.append, stored=stored)
    with suppress(UsageError):  # END, or a failing test
        while True:
            shown.append(await anext(watch))
    return shown


END = UsageError("end of the test")


async def test_a_node_that_nobody_knows_is_told_of():
    class Knowing(Client):
        async def list_nodes(self):
            return [SimpleNamespace(endpoint=Endpoint(node, Role.POD)) for node in ("b", "a")]

    way = Way(Knowing(window(1), error=END), Knowing(window(1), error=END))
    for nodes in (("a", "typo"), ("a",)):
        watch = follow(way.line(), Selection(nodes=nodes), way.told.append, stored=True)
        assert await anext(watch) == window(1)
        await watch.aclose()
    assert way.told == ["waiting: no node typo is known; known are a, b"]


async def test_windows_of_the_meantime_come_from_the_store_each_once():
    ones = [window(end) for end in range(10)]
    way = Way(Client(*ones[:4]), Client(*ones[5:8], stored=ones[:7], error=END))
    assert await seen(way) == ones[:8]
    assert way.told[-1] == "watching again; nothing is missing: 3 windows of the meantime come from the store"
    assert way.openings[0].since == 0


async def test_a_node_whose_clock_is_behind_or_ahead_loses_nothing():
    first = [window(5, "behind"), window(5_000_000, "ahead"), window(70_000, "right")]
    later = [window(6, "behind"), window(5_000_001, "ahead"), window(70_001, "right")]
    way = Way(Client(*first), Client(stored=first + later, error=END))
    assert await seen(way) == first + later


async def test_the_store_is_not_asked_for_all_there_ever_was():
    far = 10_000_000
    way = Way(Client(window(1), window(far)), Client(error=END))
    assert await seen(way) == [window(1), window(far)]
    assert way.openings[0].since == far - following._LEASE_MS


async def test_an_instance_that_is_new_is_shown_whole():
    way = Way(
        Client(window(50)), Client(stored=[window(50), window(51, lease="new"), window(52, lease="new")], error=END)
    )
    assert await seen(way) == [window(50), window(51, lease="new"), window(52, lease="new")]


async def test_windows_shown_as_previews_come_again_complete():
    previews = [window(end, lease="l", sent=end) for end in (1, 2, 3)]
    whole = [window(end, lease="l", sent=end, received=end) for end in (1, 2, 3, 4)]
    way = Way(Client(*previews), Client(stored=[window(1), *whole], error=END))
    shown = await seen(way)
    assert [item for item in shown if item.instance.assignment_id == "l"] == previews + whole


async def test_a_break_before_the_first_window_asks_from_the_beginning(monkeypatch):
    monkeypatch.setattr(following.time, "time_ns", lambda: 7_000_000)
    way = Way(Client(), Client(stored=[window(6), window(7), window(8)], error=END))
    assert await seen(way) == [window(7), window(8)]


async def test_an_agent_keeps_nothing_and_it_is_said():
    way = Way(Client(window(1)), Client(window(9), stored=[window(5)], error=END))
    assert await seen(way, stored=False) == [window(1), window(9)]
    assert way.told == [
        "gone; trying again",
        "watching again; what the agent cut meanwhile is missing here, not at the collector",
    ]


async def test_what_a_watcher_missed_is_counted():
    way = Way(Client(window(1), Missed(7), window(2), error=END))
    assert await seen(way) == [window(1), window(2)]
    assert way.told == ["missed 7 windows: they came faster than they could be shown"]


async def test_few_instances_are_remembered_for_ever(monkeypatch):
    monkeypatch.setattr(following, "_INSTANCES", 2)
    shown = following._Shown()
    for number in range(5):
        shown.add(dataclasses.replace(window(number, lease=str(number))))
    assert len(shown._newest) == 2
