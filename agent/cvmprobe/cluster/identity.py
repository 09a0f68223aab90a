"""Who holds a ServiceAccount token: asked of the API server, which alone can know whether it is still good."""

import asyncio
import base64
from dataclasses import dataclass
from typing import Final

import msgspec

from cvmprobe.cluster.api import SILENCE, ApiServer, RefusalError
from cvmprobe.errors import UnreachableError

__all__ = ["Identity", "TokenReviews"]

_TIMEOUT_S: Final = 5
_PARTS: Final = 3
_AT_ONCE: Final = 8  # so that a crowd at our door is none at the API server's
_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE: Final = "authentication.kubernetes.io/node-name"


@dataclass(frozen=True, slots=True)
class Identity:
    """A ServiceAccount of our namespace, and the pod its token is bound to (None: a token by TokenRequest)."""

    service_account: str
    pod_uid: str | None
    node: str | None  # the token's own claim, Kubernetes >= 1.30
    expires_unix_ms: int


class _Claims(msgspec.Struct, frozen=True):
    exp: int
    aud: str | list[str]

    @property
    def audiences(self) -> list[str]:
        return [self.aud] if isinstance(self.aud, str) else self.aud


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _Verdict(msgspec.Struct, frozen=True):
    authenticated: bool = False
    audiences: list[str] = []
    user: _User = _User()


class _Review(msgspec.Struct, frozen=True):
    status: _Verdict


class TokenReviews:
    """Reviews bearer tokens for one audience and one namespace."""

    def __init__(self, api: ApiServer, namespace: str, audience: str) -> None:
        self._api = api
        self._prefix = f"system:serviceaccount:{namespace}:"
        self._audience = audience
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def identify(self, token: str) -> Identity | None:
        """Tell whose token this is; None where it is not a good token of a ServiceAccount of ours for our audience.

        Raises UnreachableError when the API server cannot be asked: nobody is let in unasked.
        """
        claims = _claims(token)
        if claims is None or self._audience not in claims.audiences:
            return None  # as the API server would say; and it is spared what strangers send
        verdict = await self._review(token)
        user = verdict.user
        if not verdict.authenticated or self._audience not in verdict.audiences:
            return None
        if not user.username.startswith(self._prefix):
            return None
        return Identity(
            service_account=user.username.removeprefix(self._prefix),
            pod_uid=_only(user.extra.get(_UID)),
            node=_only(user.extra.get(_NODE)),
            expires_unix_ms=claims.exp * 1_000,
        )

    async def _review(self, token: str) -> _Verdict:
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            async with self._turns:
                answer = await self._api.send("POST", path, body, within_s=_TIMEOUT_S)
            return msgspec.json.decode(answer, type=_Review).status
        except RefusalError as error:
            raise UnreachableError(f"TokenReview: {error}; nobody new is let in meanwhile") from error
        except (ValueError, *SILENCE) as error:
            raise UnreachableError(
                f"TokenReview: the API server does not answer ({type(error).__name__}); nobody new is let in meanwhile"
            ) from error


def _only(values: list[str] | None) -> str | None:
    return values[0] if values and len(values) == 1 else None


def _claims(token: str) -> _Claims | None:
    """Read what a token says of itself, which counts for nothing until the API server has vouched for it."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except ValueError:  # neither base64 nor such claims
        return None
