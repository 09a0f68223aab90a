"""Who holds a ServiceAccount token: asked of the API server, which alone can know whether it is still good."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from kubernetes.aio.client import (
    ApiClient,
    ApiException,
    AuthenticationV1Api,
    V1TokenReview,
    V1TokenReviewSpec,
)

from cvmprobe.errors import UnreachableError

__all__ = ["Identity", "TokenReviews"]

_TIMEOUT_S: Final = 5
_MAX_TOKEN: Final = 16 * 1024
_UID: Final = "authentication.kubernetes.io/pod-uid"
_NODE: Final = "authentication.kubernetes.io/node-name"


@dataclass(frozen=True, slots=True)
class Identity:
    """A ServiceAccount of our namespace, and the pod its token is bound to (None: a token by TokenRequest)."""

    service_account: str
    pod_uid: str | None
    node: str | None  # the token's own claim, Kubernetes >= 1.30
    expires_unix_ms: int


class TokenReviews:
    """Reviews bearer tokens for one audience and one namespace."""

    def __init__(self, api: ApiClient, namespace: str, audience: str) -> None:
        self._api = AuthenticationV1Api(api)
        self._prefix = f"system:serviceaccount:{namespace}:"
        self._audience = audience

    async def identify(self, token: str) -> Identity | None:
        """Tell whose token this is; None where it is not a good token of a ServiceAccount of ours for our audience.

        Raises UnreachableError when the API server cannot be asked: nobody is let in unasked.
        """
        if not token or len(token) > _MAX_TOKEN:
            return None
        spec = V1TokenReviewSpec(token=token, audiences=[self._audience])
        try:
            review = await self._api.create_token_review(V1TokenReview(spec=spec), _request_timeout=_TIMEOUT_S)
        except (ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(
                f"TokenReview: the API server does not answer ({type(error).__name__}); nobody new is let in until then"
            ) from error
        status = review.status
        if status is None or not status.authenticated or self._audience not in (status.audiences or ()):
            return None
        user = status.user
        if user is None or user.username is None or not user.username.startswith(self._prefix):
            return None
        extra: Mapping[str, list[str]] = user.extra or {}
        return Identity(
            service_account=user.username.removeprefix(self._prefix),
            pod_uid=_only(extra.get(_UID)),
            node=_only(extra.get(_NODE)),
            expires_unix_ms=_expiry(token),
        )


def _only(values: list[str] | None) -> str | None:
    return values[0] if values and len(values) == 1 else None


def _expiry(token: str) -> int:
    """Read the expiry of a token the API server has just vouched for, in Unix ms; 0 (already over) if it has none."""
    try:
        body = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return int(claims["exp"]) * 1000
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return 0
