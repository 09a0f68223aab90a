"""Tickets that a responder admits, and its counters awaited."""

import os

from tests.native.slow_session import Terms, Ticket, until

PLENTY = 1 << 40


def admit(responder, ticket, *, valid_for_ms=60_000, max_bytes=PLENTY) -> Ticket:
    responder.admit(ticket.session_id, ticket.key, ticket.probe, valid_for_ms=valid_for_ms, max_bytes=max_bytes)
    return ticket


def hello_of(ticket, terms=None) -> bytes:
    nonce = os.urandom(16)
    return ticket.hello(0, nonce, nonce, terms or Terms())


def counted(responder, name, value) -> None:
    until(lambda: responder.counters()[name] == value, f"{name} == {value}")
