"""A local copy of one kind of Kubernetes object: listed once, then watched, and listed anew when the watch is lost."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Generic, Protocol, TypeVar

import aiohttp
import msgspec

__all__ = ["Metadata", "Mirror"]

_LOG = logging.getLogger(__name__)

# A watch is asked anew this often, and nothing is waited for longer: a half-closed connection shows itself by then.
_WATCH_S: Final = 20
_GRACE_S: Final = 5
_PAUSE_S: Final = 0.1
_BACKOFF_S: Final = (0.5, 10.0)
_LONGEST_WAIT_S: Final = 60.0


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What every object has."""

    name: str
    uid: str
    resource_version: str
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Item(Protocol):
    @property
    def metadata(self) -> Metadata:
        """Name, uid and the rest."""


_T = TypeVar("_T", bound=_Item)


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _Version


class _List(msgspec.Struct, Generic[_T], frozen=True):
    metadata: _Version
    items: list[_T] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True):
    """How the API server says no."""

    code: int = 0
    message: str = ""


class _RefusedError(Exception):
    def __init__(self, status: _Status, wait_s: float | None = None) -> None:
        super().__init__(f"the API server answers {status.code}: {status.message}")
        self.gone = status.code == HTTPStatus.GONE
        self.wait_s = wait_s  # what the server asks for


class Mirror(Generic[_T]):
    """All objects that ``request`` lists, by uid, each as a ``kind``: a Struct with the fields that are wanted.

    ``request`` is a ``list_…_without_preload_content`` of the client, ``arguments`` what it is called with; ``changed``
    is called after every change. While the API server is away the mirror keeps what it last saw.
    """

    def __init__(
        self,
        kind: type[_T],
        request: Callable[..., Awaitable[aiohttp.ClientResponse]],
        changed: Callable[[], None],
        **arguments: str,
    ) -> None:
        self.objects: dict[str, _T] = {}
        self.synced = False  # whether they have been listed at least once
        self._name = kind.__name__.strip("_").lower()
        self._list: msgspec.json.Decoder[_List[_T]] = msgspec.json.Decoder(_List[kind])  # type: ignore[valid-type]  # it is one when it runs
        self._item = msgspec.json.Decoder(kind)
        self._event = msgspec.json.Decoder(_Event)
        self._request = request
        self._arguments = arguments
        self._changed = changed

    async def run(self) -> None:
        """Keep the copy true until cancelled. Nothing the server does ends it."""
        delay_s = _BACKOFF_S[0]
        version: str | None = None
        while True:
            try:
                version = await self._watch(version or await self._relist())
                delay_s = _BACKOFF_S[0]
                await asyncio.sleep(_PAUSE_S)
            except (_RefusedError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                version = None  # what happened meanwhile is unknown: list again
                if isinstance(error, _RefusedError) and error.gone:
                    continue
                _LOG.warning("watch of every %s: %s; asking anew", self._name, str(error) or type(error).__name__)
                asked_s = error.wait_s if isinstance(error, _RefusedError) else None
                await asyncio.sleep(asked_s or random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spread, not secrecy
                delay_s = min(delay_s * 2, _BACKOFF_S[1])

    async def _relist(self) -> str:
        async with self._ask(_GRACE_S) as response:
            listed = self._list.decode(await response.read())
        self.objects = {item.metadata.uid: item for item in listed.items or ()}
        self.synced = True
        self._changed()
        return listed.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Apply events from ``version`` on until the server ends the watch in good order; returns where to go on."""
        watching: dict[str, Any] = {"watch": True, "resource_version": version, "allow_watch_bookmarks": True}
        async with self._ask(_WATCH_S + _GRACE_S, timeout_seconds=_WATCH_S, **watching) as response:
            async for line in response.content:
                event = self._event.decode(line)
                if event.type == "ERROR":
                    raise _RefusedError(msgspec.json.decode(event.object, type=_Status))
                version = self._apply(event)
        return version

    def _apply(self, event: _Event) -> str:
        """Take in an event; returns the version it leads to."""
        if event.type == "BOOKMARK":
            return msgspec.json.decode(event.object, type=_Versioned).metadata.resource_version
        item = self._item.decode(event.object)
        if event.type == "DELETED":
            self.objects.pop(item.metadata.uid, None)
        else:
            self.objects[item.metadata.uid] = item
        self._changed()
        return item.metadata.resource_version

    @asynccontextmanager
    async def _ask(self, within_s: float, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._request(**self._arguments, **more, _request_timeout=within_s)
        async with response:
            if response.status != HTTPStatus.OK:
                raise _RefusedError(_Status(response.status, await _message(response)), _wait_s(response))
            yield response


async def _message(response: aiohttp.ClientResponse) -> str:
    body = await response.read()
    try:
        return msgspec.json.decode(body, type=_Status).message
    except ValueError:
        return response.reason or ""


def _wait_s(response: aiohttp.ClientResponse) -> float | None:
    """Return how long the server asks to be left alone (429 and 503 may say so); None where it does not."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_WAIT_S) if value.isdecimal() else None
