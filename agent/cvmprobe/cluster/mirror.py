"""A local copy of one kind of Kubernetes object: listed once, then watched, and listed anew when the watch is lost."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from cvmprobe.cluster.api import SILENCE, ApiServer, RefusalError

__all__ = ["Metadata", "Mirror"]

_LOG = logging.getLogger(__name__)

# A watch is asked anew this often, and nothing is waited for longer: a half-closed connection shows itself by then.
_WATCH_S: Final = 20
_GRACE_S: Final = 5
_PAUSE_S: Final = 0.1
_BACKOFF_S: Final = (0.5, 10.0)


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
    """What an event of type ERROR holds."""

    code: int = 0
    message: str = ""


class Mirror(Generic[_T]):
    """All objects that ``path`` and ``query`` list, by uid; each as a ``kind``: a Struct with the wanted fields.

    ``changed`` is called after every change. While the API server is away the mirror keeps what it last saw.
    """

    def __init__(
        self,
        kind: type[_T],
        api: ApiServer,
        path: str,
        query: Mapping[str, str],
        changed: Callable[[], None],
    ) -> None:
        self.objects: dict[str, _T] = {}
        self.synced = False  # whether they have been listed at least once
        self._name = kind.__name__.strip("_").lower()
        self._list: msgspec.json.Decoder[_List[_T]] = msgspec.json.Decoder(_List[kind])  # type: ignore[valid-type]  # it is one when it runs
        self._item = msgspec.json.Decoder(kind)
        self._event = msgspec.json.Decoder(_Event)
        self._api = api
        self._path = path
        self._query = query
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
            except (RefusalError, ValueError, *SILENCE) as error:
                version = None  # what happened meanwhile is unknown: list again
                if isinstance(error, RefusalError) and error.status == HTTPStatus.GONE:
                    continue
                _LOG.warning("watch of every %s: %s; asking anew", self._name, str(error) or type(error).__name__)
                asked_s = error.wait_s if isinstance(error, RefusalError) else None
                await asyncio.sleep(asked_s or random.uniform(delay_s / 2, delay_s))  # noqa: S311 - spread, not secrecy
                delay_s = min(delay_s * 2, _BACKOFF_S[1])

    async def _relist(self) -> str:
        listed = self._list.decode(await self._api.get(self._path, self._query, within_s=_GRACE_S))
        self.objects = {item.metadata.uid: item for item in listed.items or ()}
        self.synced = True
        self._changed()
        return listed.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Apply events from ``version`` on until the server ends the watch in good order; returns where to go on."""
        watching = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        query = {**self._query, **watching, "timeoutSeconds": str(_WATCH_S)}
        async with self._api.open("GET", self._path, query, within_s=_WATCH_S + _GRACE_S) as response:
            async for line in response.content:
                event = self._event.decode(line)
                if event.type == "ERROR":
                    status = msgspec.json.decode(event.object, type=_Status)
                    raise RefusalError(status.code, status.message)
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
