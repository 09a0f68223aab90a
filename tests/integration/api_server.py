"""An API server as a laptop sees it: tokens, the CA's ConfigMap, pods, and port-forward to a server on this machine."""

import asyncio
import json
from contextlib import suppress
from typing import Self

import yaml
from aiohttp import WSMsgType, web

NAMESPACE = "cvmprobe"
CREDENTIAL = "of-the-person"


class ApiServer:
    """Serves plain HTTP on loopback; every attribute may be changed at any time.

    ``ports`` maps (pod, port) to the port here that stands for it; one that is missing refuses, as a kubelet says it.
    ``answers`` maps the last word of a path to a status that is answered instead. ``asked`` holds all requests.
    """

    def __init__(self) -> None:
        self.pods: dict[str, tuple[str, str]] = {"cvmprobe-collector-0": ("collector", "node1")}
        self.ports: dict[tuple[str, int], int] = {}
        self.ca = "pem"
        self.answers: dict[str, int] = {}
        self.asked: list[str] = []
        self.credentials: list[str] = []
        self.tokens = 0
        self.open: set[web.WebSocketResponse] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard])
        base = f"/api/v1/namespaces/{NAMESPACE}"
        app.router.add_post(f"{base}/serviceaccounts/{{name}}/token", self._token)
        app.router.add_get(f"{base}/configmaps/cvmprobe-ca", self._config_map)
        app.router.add_get(f"{base}/pods", self._pods)
        app.router.add_get(f"{base}/pods/{{name}}/portforward", self._forward)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._runner.cleanup()

    def kubeconfig(self, path, credential=CREDENTIAL):
        """Write a kubeconfig that leads here, and return its path."""
        user = {"token": credential} if isinstance(credential, str) else credential
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "here",
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def cut(self) -> None:
        """Break every port-forward as a lost connection does: without a word."""
        for socket in tuple(self.open):
            transport = socket._req.transport
            if transport is not None:
                transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler):
        self.asked.append(f"{request.method} {request.path_qs}")
        self.credentials.append(request.headers.get("Authorization", ""))
        status = self.answers.get(request.path.rpartition("/")[2])
        if status is None and request.headers.get("Authorization") != f"Bearer {CREDENTIAL}":
            status = 401
        if status is not None:
            body = json.dumps({"kind": "Status", "message": f"no {request.path.rpartition('/')[2]} for you"})
            return web.Response(status=status, text=body, content_type="application/json")
        return await handler(request)

    async def _token(self, request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        self.asked.append(f"audiences {spec['audiences']} for {spec['expirationSeconds']} s")
        self.tokens += 1
        token = f"{request.match_info['name']}-{self.tokens}"
        status = {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}
        return web.json_response({"kind": "TokenRequest", "spec": spec, "status": status}, status=201)

    async def _config_map(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "ConfigMap", "data": {"ca.crt": self.ca} if self.ca else None})

    async def _pods(self, request: web.Request) -> web.Response:
        component = request.query["labelSelector"].rpartition("=")[2]
        items = [
            {
                "metadata": {"name": name},
                "spec": {"containers": [], "nodeName": node},
                "status": {"phase": "Running"},
            }
            for name, (its_component, node) in self.pods.items()
            if its_component == component
        ]
        return web.json_response({"kind": "PodList", "metadata": {}, "items": items})

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["name"] not in self.pods:
            return web.json_response({"kind": "Status", "message": "pod not found"}, status=404)
        if request.headers.get("Accept", "*/*") != "*/*":
            return web.json_response({"kind": "Status", "message": "only the following media types"}, status=406)
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        assert socket.ws_protocol == "v4.channel.k8s.io"
        self.open.add(socket)
        try:
            for channel in (0, 1):
                await socket.send_bytes(bytes((channel,)) + port.to_bytes(2, "little"))
            try:
                target = self.ports[request.match_info["name"], port]
                reader, writer = await asyncio.open_connection("127.0.0.1", target)
            except (KeyError, OSError):
                await socket.send_bytes(
                    b"\x01" + f"error forwarding port {port} to pod: dial tcp4: connection refused".encode()
                )
                return socket
            await _join(socket, reader, writer)
        finally:
            self.open.discard(socket)
        return socket


async def _join(socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def outward() -> None:
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            assert message.data[0] == 0
            writer.write(message.data[1:])
            await writer.drain()

    async def homeward() -> None:
        while data := await reader.read(32_768):
            await socket.send_bytes(b"\x00" + data)

    ways = [asyncio.create_task(outward()), asyncio.create_task(homeward())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        with suppress(OSError):
            await socket.close()
