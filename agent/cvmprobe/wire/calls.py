"""How each call to our server goes: who may make it, how it ends, and what is said when it is refused."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import TypeVar

import grpc

from cvmprobe.errors import DeniedError, ProbeError, RefusedError, UnreachableError, UsageError
from cvmprobe.model.endpoint import Role
from cvmprobe.wire.channel import ANSWERED, LET_IN
from cvmprobe.wire.identity import OPEN_METHODS, Authenticator, Principal, allowed

__all__ = ["Gate", "NotServedError", "answered", "caller", "streamed"]

Service = TypeVar("Service")
Request = TypeVar("Request")
Response = TypeVar("Response")


class NotServedError(UsageError):
    """This server does not serve that method."""


_Caller = tuple[str, str | None, Role | None, str | None]
_CALLS_CAP = 256  # of one caller at a time, so that the others are served
_CALLER: ContextVar[Principal] = ContextVar("caller")
_STATUS: tuple[tuple[type[ProbeError], grpc.StatusCode], ...] = (
    (DeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (UnreachableError, grpc.StatusCode.UNAVAILABLE),
    (NotServedError, grpc.StatusCode.UNIMPLEMENTED),
    (RefusedError, grpc.StatusCode.FAILED_PRECONDITION),
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (ProbeError, grpc.StatusCode.INTERNAL),
)


def caller() -> Principal:
    """Who makes the call that this task serves."""
    return _CALLER.get()


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method: no token, unknown token or wrong role, and the method is never reached."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._calls: set[asyncio.Task[None]] = set()
        self._of_caller: Counter[_Caller] = Counter()

    async def emptied(self) -> None:
        """Wait until every call has ended; its server has stopped."""
        if self._calls:
            await asyncio.wait(self._calls)

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Request, Response] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Let the call through, or answer it with UNAUTHENTICATED, PERMISSION_DENIED, or why nobody can tell."""
        method = handler_call_details.method
        if method in OPEN_METHODS:
            return await continuation(handler_call_details)
        token = _bearer(handler_call_details)
        try:
            principal = await self._authenticator.authenticate(token)
        except ProbeError as error:
            return _refusal(_status(error), str(error))
        if principal is None or principal.expired():
            reason = "the token is unknown or expired" if token else "no token was sent"
            return _refusal(grpc.StatusCode.UNAUTHENTICATED, reason)
        if not allowed(method, principal):
            return _refusal(
                grpc.StatusCode.PERMISSION_DENIED, f"{principal.name} ({principal.access}) may not call {method}"
            )
        one = principal.name, principal.node, principal.role, principal.pod_uid
        if self._of_caller[one] >= _CALLS_CAP:
            return _refusal(
                grpc.StatusCode.FAILED_PRECONDITION, f"{principal.name} has {_CALLS_CAP} calls open already; end some"
            )
        _CALLER.set(principal)
        self._follow(one)
        return await continuation(handler_call_details)

    def _follow(self, one: _Caller) -> None:
        task = asyncio.current_task()  # gRPC serves a call in one task, this one
        if task is None:
            return

        def ended(task: asyncio.Task[None]) -> None:
            self._calls.discard(task)
            self._of_caller[one] -= 1
            if not self._of_caller[one]:
                del self._of_caller[one]

        self._calls.add(task)
        self._of_caller[one] += 1
        task.add_done_callback(ended)


def _status(error: ProbeError) -> grpc.StatusCode:
    return next(code for kind, code in _STATUS if isinstance(error, kind))


def _bearer(details: grpc.HandlerCallDetails) -> str:
    for key, value in details.invocation_metadata or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    return ""


def _refusal(code: grpc.StatusCode, reason: str) -> "grpc.RpcMethodHandler[Request, Response]":
    """Answer a call of any shape with a status, before any message of it is read."""

    async def refuse(_requests: object, context: grpc.aio.ServicerContext[Request, Response]) -> None:
        await context.abort(code, reason, (ANSWERED,))

    return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def _answering(context: grpc.aio.ServicerContext[Request, Response]) -> AsyncIterator[None]:
    """Turn our errors into statuses, and end the call when the caller's proof does."""
    expires_unix_ms = caller().expires_unix_ms
    left_s = None if expires_unix_ms is None else max(0.0, expires_unix_ms / 1e3 - time.time())
    try:
        async with asyncio.timeout(left_s) as proof:
            yield
    except TimeoutError:
        if not proof.expired():
            raise
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired", (ANSWERED,))
    except ProbeError as error:
        await context.abort(_status(error), str(error), (ANSWERED,))


def answered(
    method: Callable[[Service, Request], Awaitable[Response]],
) -> Callable[[Service, Request, grpc.aio.ServicerContext[Request, Response]], Awaitable[Response]]:
    """Make a unary method of a service from one that takes the request alone."""

    @functools.wraps(method)
    async def call(
        service: Service, request: Request, context: grpc.aio.ServicerContext[Request, Response]
    ) -> Response:
        async with _answering(context):
            return await method(service, request)
        raise AssertionError("abort never returns")

    return call


def streamed(
    method: Callable[[Service, Request], AsyncGenerator[Response, None]],
) -> Callable[[Service, Request, grpc.aio.ServicerContext[Request, Response]], AsyncIterator[Response]]:
    """Make a streaming method from an async generator; unlike gRPC alone, it closes the generator with the call."""

    @functools.wraps(method)
    async def call(service: Service, request: Request, context: grpc.aio.ServicerContext[Request, Response]) -> None:
        async with _answering(context), aclosing(method(service, request)) as responses:
            await context.send_initial_metadata((LET_IN,))  # from now on nothing is missed
            async for response in responses:
                await context.write(response)

    return call  # type: ignore[return-value] # stubs know generators, gRPC takes coroutines that write, too
