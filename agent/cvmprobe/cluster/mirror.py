"""A local copy of one kind of Kubernetes object: listed once, then watched, and listed anew when the watch is lost."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
from kubernetes.aio.client import ApiException
from kubernetes.aio.watch import Watch

__all__ = ["Mirror"]

_LOG = logging.getLogger(__name__)

# A watch that says nothing for this long is asked anew: a half-closed connection is never trusted for longer.
_WATCH_S: Final = 20
_GRACE_S: Final = 5
_BACKOFF_S: Final = (0.5, 10.0)
_GONE: Final = 410

# What the client raises when the server is away, says no, or sends something that is no event.
_PASSING: Final = (ApiException, aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Mirror:
    """All objects of one kind that ``list_objects`` lists, by uid.

    ``list_objects`` is a list method of a kubernetes.aio API, ``arguments`` what it is called with. The mirror keeps
    what it last saw while the API server is away: ``synced_at`` (monotonic seconds) says how old that is.
    """

    def __init__(
        self,
        kind: str,
        list_objects: Callable[..., Awaitable[Any]],
        changed: Callable[[], None],
        **arguments: str,
    ) -> None:
        self.objects: dict[str, Any] = {}  # models of the client, of the kind listed
        self.synced_at: float | None = None  # None: never yet
        self._kind = kind
        self._list = list_objects
        self._arguments = arguments
        self._changed = changed

    async def run(self) -> None:
        """Keep the copy true until cancelled. Nothing the server does ends it."""
        delay = _BACKOFF_S[0]
        version: str | None = None
        while True:
            try:
                version = await self._watch(version or await self._relist())
                delay = _BACKOFF_S[0]
            except _PASSING as error:
                if not (isinstance(error, ApiException) and error.status == _GONE):
                    _LOG.warning("watch of %s: %s; asking anew", self._kind, _reason(error))
                    await asyncio.sleep(_retry_after(error) or random.uniform(delay / 2, delay))  # noqa: S311 - spread, not secrecy
                    delay = min(delay * 2, _BACKOFF_S[1])
                version = None  # what happened meanwhile is unknown: list again

    async def _relist(self) -> str:
        listed = await self._list(**self._arguments, _request_timeout=_WATCH_S)
        self.objects = {item.metadata.uid: item for item in listed.items}
        self._seen()
        return str(listed.metadata.resource_version)

    async def _watch(self, version: str) -> str:
        """Apply events from ``version`` on until the server ends the watch in good order; returns where to go on."""
        async with Watch() as watch:  # type: ignore[no-untyped-call]  # the client has no types here
            stream = watch.stream(
                self._list,
                **self._arguments,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=_WATCH_S,
                _request_timeout=_WATCH_S + _GRACE_S,
            )
            async for event in stream:
                self._apply(event["type"], event["object"])
                version = event["raw_object"]["metadata"]["resourceVersion"]
        self.synced_at = time.monotonic()
        return version

    def _apply(self, kind: str, item: Any) -> None:
        if kind == "BOOKMARK":
            self.synced_at = time.monotonic()
            return
        if kind == "DELETED":
            self.objects.pop(item.metadata.uid, None)
        else:
            self.objects[item.metadata.uid] = item
        self._seen()

    def _seen(self) -> None:
        self.synced_at = time.monotonic()
        self._changed()


def _retry_after(error: BaseException) -> float | None:
    """Seconds the server asks to wait (429 and 503 say so)."""
    headers = getattr(error, "headers", None) or {}
    value = headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdecimal() else None


def _reason(error: BaseException) -> str:
    if isinstance(error, ApiException):
        return f"the API server answers {error.status} {error.reason}"
    return f"{type(error).__name__}: {error}".strip(": ")
