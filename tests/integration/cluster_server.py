"""An API server as the collector sees it: pods and nodes to list and watch, tokens to review, the CA's ConfigMap."""

import asyncio
import base64
import json
import secrets
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Self

import yaml
from aiohttp import web

NAMESPACE = "cvmprobe"
CLUSTER = "uid-of-kube-system"


def metadata(uid, name=None, **more):
    return {"name": name or uid, "uid": uid, **more}


def pod(uid, component="agent", node="n1", ip="10.0.0.1", *, account=None, phase="Running", going=False):
    """Give a pod of ours; node and ip None: not there yet."""
    labels = {"app.kubernetes.io/name": "cvmprobe", "app.kubernetes.io/component": component}
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}
    spec = {"serviceAccountName": account or f"cvmprobe-{component}", "containers": []}
    status = {"phase": phase, "conditions": None}
    return {
        "metadata": metadata(uid, f"cvmprobe-{component}-{uid}", labels=labels, **deleted),
        "spec": spec | ({"nodeName": node} if node else {}),
        "status": status | ({"podIP": ip} if ip else {}),
    }


def node(name, **labels):
    info = {"containerRuntimeVersion": "containerd://2", "osImage": "Debian", "kernelVersion": "6"}
    return {"metadata": metadata(f"uid-{name}", name, labels=labels), "spec": {}, "status": {"nodeInfo": info}}


def token(account, *, pod_uid=None, node_name=None, audience="cvmprobe", namespace=NAMESPACE, left_s=600):
    """Make a token in the shape of a ServiceAccount's, and what the API server says of it."""
    expires = int(time.time()) + left_s
    claims = {"aud": [audience], "exp": expires, "sub": account, "jti": secrets.token_hex()}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    extra = {"authentication.kubernetes.io/pod-uid": [pod_uid]} if pod_uid else {}
    if node_name:
        extra["authentication.kubernetes.io/node-name"] = [node_name]
    user = {"username": f"system:serviceaccount:{namespace}:{account}", "uid": "u", "groups": [], "extra": extra}
    return f"head.{body}.signature", {"authenticated": True, "audiences": [audience], "user": user}


class ClusterServer:
    """Serves plain HTTP on loopback; ``away`` and ``back`` take it off its port and put it there again.

    ``refusals`` are (status, headers) that the next requests for lists and watches get instead of an answer. While
    ``deaf``, watches are opened and nothing ever comes. ``asked`` counts requests: list, watch, review, patch.
    """

    def __init__(self) -> None:
        self.objects = {"pods": {}, "nodes": {}}
        self.version = 100
        self.compacted = 0  # watches from before this version are gone
        self.history = []  # (version, kind, type, object)
        self.refusals = deque()
        self.deaf = False
        self.asked = {"list": 0, "watch": 0, "review": 0, "patch": 0}
        self.tokens = {}
        self.review_status = 200
        self.config_map = {}
        self.watches = set()
        self.port = 0
        self._news = asyncio.Event()
        self._runner = None

    async def __aenter__(self) -> Self:
        await self.back()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.away()

    async def away(self) -> None:
        """Break every connection and leave the port."""
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def back(self) -> None:
        """Come to the port."""
        app = web.Application()
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/pods", partial(self._objects, "pods"))
        app.router.add_get("/api/v1/nodes", partial(self._objects, "nodes"))
        app.router.add_get("/api/v1/namespaces/kube-system", self._kube_system)
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/cvmprobe-ca", self._config_map)
        app.router.add_patch(f"/api/v1/namespaces/{NAMESPACE}/configmaps/cvmprobe-ca", self._patch)
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self._review)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    def kubeconfig(self, path):
        """Write a kubeconfig that leads here, and return its path."""
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "here",
                    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "u", "user": {"token": "of-the-collector"}}],
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def put(self, kind, item):
        """Create or change an object."""
        uid = item["metadata"]["uid"]
        self._tell(kind, "MODIFIED" if uid in self.objects[kind] else "ADDED", item)
        self.objects[kind][uid] = item

    def delete(self, kind, uid):
        """Delete an object."""
        self._tell(kind, "DELETED", self.objects[kind].pop(uid))

    def bookmark(self):
        """Tell every watch how far it is."""
        for kind in self.objects:
            self._tell(kind, "BOOKMARK", {"metadata": {}})

    def compact(self):
        """Forget the past: whoever watches from there must list again."""
        self.compacted = self.version
        self.history.clear()

    @property
    def watched(self):
        """How many watches somebody is listening to."""
        transports = (response._payload_writer.transport for response in self.watches)
        return sum(transport is not None and not transport.is_closing() for transport in transports)

    def say(self, line: bytes):
        """Send a line to every watch, whatever it is."""
        for response in self.watches:
            response._payload_writer.transport.write(b"%x\r\n%s\r\n" % (len(line), line))

    def cut(self):
        """Break every watch as a lost connection does."""
        for response in self.watches:
            if (transport := response._payload_writer.transport) is not None:
                transport.abort()

    def _tell(self, kind, change, item):
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, change, json.loads(json.dumps(item))))
        self._wake()

    def _wake(self):
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _objects(self, kind, request):
        watching = request.query.get("watch") == "true"
        self.asked["watch" if watching else "list"] += 1
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.json_response(
                {"kind": "Status", "code": status, "message": "no"}, status=status, headers=headers
            )
        if watching:
            return await self._watch(kind, request)
        items = list(self.objects[kind].values())
        for item in items:
            item["metadata"].setdefault("resourceVersion", str(self.version))
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, kind, request):
        assert request.query["allowWatchBookmarks"] == "true"
        cursor = int(request.query["resourceVersion"])
        end_s = time.monotonic() + int(request.query["timeoutSeconds"])
        response = web.StreamResponse()
        await response.prepare(request)
        if cursor < self.compacted:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        self.watches.add(response)
        try:
            while self.deaf or time.monotonic() < end_s:
                news = self._news
                for version, its_kind, change, item in list(self.history):
                    if version > cursor and its_kind == kind and not self.deaf:
                        await response.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
                        cursor = version
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), None if self.deaf else max(0.0, end_s - time.monotonic()))
        finally:
            self.watches.discard(response)
        return response

    async def _review(self, request):
        self.asked["review"] += 1
        if self.review_status != 200:
            return web.json_response({"kind": "Status", "message": "no"}, status=self.review_status)
        spec = (await request.json())["spec"]
        status = self.tokens.get(spec["token"])
        if status is None or not set(status["audiences"]) & set(spec["audiences"]):
            status = {"authenticated": False, "error": "no such token"}
        return web.json_response({"kind": "TokenReview", "spec": spec, "status": status}, status=201)

    async def _kube_system(self, _):
        return web.json_response({"metadata": metadata(CLUSTER, "kube-system")})

    async def _config_map(self, _):
        return web.json_response({"kind": "ConfigMap", "data": self.config_map or None})

    async def _patch(self, request):
        self.asked["patch"] += 1
        self.config_map |= (await request.json())["data"]
        return web.json_response({"kind": "ConfigMap", "data": self.config_map})
