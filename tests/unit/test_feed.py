"""A feed hands each watcher what it wants, and tells a slow one what it missed."""

import asyncio
from contextlib import aclosing

from cvmprobe.model.query import Missed
from cvmprobe.wire.feed import Feed


async def started(feed, wanted):
    """Begin to watch; gives the stream and its first item to come."""
    stream = feed.watch(wanted)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)  # one step: it is registered
    return stream, first


async def test_each_watcher_gets_what_it_wants():
    feed = Feed(4)
    feed.publish(0)  # nobody watches yet
    assert not feed.watched
    even, first_even = await started(feed, lambda item: item % 2 == 0)
    every, first_of_all = await started(feed, lambda _: True)
    async with aclosing(even), aclosing(every):
        for item in (1, 2, 3, 4):
            feed.publish(item)
        assert [await first_even, await anext(even)] == [2, 4]
        assert [await first_of_all, await anext(every), await anext(every), await anext(every)] == [1, 2, 3, 4]
        assert feed.watched
    assert not feed.watched


async def test_a_slow_watcher_keeps_the_newest_and_learns_how_many_it_missed():
    feed = Feed(3)
    stream, first = await started(feed, lambda _: True)
    async with aclosing(stream):
        feed.publish(0)
        assert await first == 0
        for item in range(1, 11):
            feed.publish(item)
        assert [await anext(stream) for _ in range(4)] == [Missed(7), 8, 9, 10]
        feed.publish(11)
        assert await anext(stream) == 11


async def test_what_is_heavy_leaves_room_for_fewer_and_the_newest_is_always_there():
    feed = Feed(10, weight=5, weigh=abs)
    stream, first = await started(feed, lambda _: True)
    async with aclosing(stream):
        feed.publish(1)
        assert await first == 1
        for item in (2, -2, 3, 2):
            feed.publish(item)
        assert [await anext(stream) for _ in range(3)] == [Missed(2), 3, 2]
        feed.publish(1)
        feed.publish(100)
        assert [await anext(stream) for _ in range(2)] == [Missed(1), 100]
        feed.publish(5)
        assert await anext(stream) == 5


async def test_it_begins_with_the_call_not_with_the_first_step():
    feed = Feed(4)
    async with aclosing(feed.watch(lambda _: True)) as stream:
        feed.publish(1)
        assert await anext(stream) == 1


def test_a_watch_that_nobody_took_a_step_of_leaves_no_trace():
    feed = Feed(4)
    stream = feed.watch(lambda _: True)
    assert feed.watched
    del stream
    assert not feed.watched
