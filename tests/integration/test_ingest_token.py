"""An attachment is as good as its token: who may not attach is told why, and a live one ends with its token."""

import time

import pytest
from tests.integration.waiting import until
from tests.integration.wire_fakes import (
    MemoryCollector,
    MemoryOutbox,
    a_batch,
    a_report,
    impatient,
    nothing_is_left,
    running,
    world,
)

from cvmprobe.errors import ConfigError
from cvmprobe.model.delivery import Heartbeat
from cvmprobe.wire.identity import Access, Principal, StaticTokens

__all__ = ["impatient", "nothing_is_left", "world"]


@pytest.mark.parametrize(
    ("token", "node", "reason"),
    [
        ("", "a", "no token was sent"),
        ("guessed", "a", "unknown or expired"),
        ("expired-agent", "a", "unknown or expired"),
        ("viewer", "a", "may not call /cvmprobe.v1.IngestService/Attach"),
        ("agent-b", "a", "agent b may speak for node b, not for a/pod"),
        ("agent-lost", "a", "may speak for no node"),
    ],
)
async def test_who_may_not_attach_is_told_why_and_tries_again(world, token, node, reason):
    collector = MemoryCollector()
    tokens = [token]
    async with world.serve(ingest=collector) as port:
        link = world.uplink(port, MemoryOutbox(), token=token, node=node)
        link._token = lambda: tokens[-1]
        async with running(link):
            await until(lambda: reason in (link.trouble or ""))
            assert link.trouble.startswith(f"127.0.0.1:{port} refuses: ")
            assert collector.attached == 0
            tokens.append("agent-a")
            await until(lambda: link.attached)


async def test_a_live_attachment_ends_with_its_token(world):
    collector = MemoryCollector()
    soon = time.time_ns() // 1_000_000 + 700
    tokens = StaticTokens({"short": Principal("agent a", Access.AGENT, "a", expires_unix_ms=soon)})
    async with world.serve(tokens, ingest=collector) as port:
        link = world.uplink(port, MemoryOutbox(), token="short")
        async with running(link):
            await until(lambda: link.attached)
            await until(lambda: not link.attached and "expired" in link.trouble)
    assert collector.ended == collector.attached == 1


async def test_a_replaced_token_is_used_while_the_old_one_is_still_good(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    collector.heartbeat_ms = 50_000
    collector.acking = False
    tokens = ["agent-a"]
    authenticator = StaticTokens({token: Principal(token, Access.AGENT, "a") for token in ("agent-a", "second")})
    async with world.serve(authenticator, ingest=collector) as port:
        link = world.uplink(port, spool, start_id="s")

        def token():
            if tokens[-1] is None:
                raise ConfigError("the token file is just being replaced")
            return tokens[-1]

        link._token = token
        spool.beside.append(a_report("early"))
        spool.add(a_batch(1))
        async with running(link):
            await until(lambda: 1 in collector.stored.get("s", {}))
            for unchanged in ("agent-a", None):
                tokens.append(unchanged)
                collector.sends["s"](Heartbeat())
                spool.beside.append(a_report(str(unchanged)))
                link.wake()
                await until(lambda unchanged=unchanged: a_report(str(unchanged)) in collector.beside)
            assert collector.attached == 1
            tokens.append("second")
            collector.sends["s"](Heartbeat())
            await until(lambda: collector.attached == 2 and link.attached)
            collector.acking = True
            spool.add(a_batch(2))
            link.wake()
            await until(lambda: spool.forgotten == 2)
    assert link.trouble is None or "cannot be reached" not in link.trouble
    assert collector.attached == 2
    assert collector.beside == [a_report("early"), a_report("agent-a"), a_report("None")]
    assert set(collector.stored["s"]) == {1, 2}
