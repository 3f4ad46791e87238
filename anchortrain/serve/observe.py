"""Around every request: its number, its line in the log, its place in the metrics, and who may make it."""

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anchortrain.serve.errors import ApiError
from anchortrain.serve.metrics import Metrics
from anchortrain.serve.settings import ServeConfig

access = logging.getLogger("anchortrain.access")

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/ready", "/metrics", "/")
_LEFT = 499  # nginx's status for a client that left before it was answered


class Observe:
    """ASGI middleware: counts and logs each request, without its text. Handlers may add to `scope["said"]`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), _LEFT
        number = secrets.token_hex(8)
        scope["said"] = {}
        path = scope["path"]
        endpoint = path if path in ENDPOINTS else "/v1/models" if path.startswith("/v1/models/") else "other"

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            await send(message)

        running = self._metrics.running.labels(endpoint)
        running.inc()
        try:
            await self._app(scope, receive, observed)
        except BaseException:
            status = 500 if status == _LEFT else status
            raise
        finally:
            running.dec()
            seconds = time.monotonic() - began
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.duration.labels(endpoint).observe(seconds)
            client = (scope.get("client") or ("-",))[0]
            raw = scope.get("raw_path", b"")[:200].decode("ascii", "backslashreplace")
            said = "".join(f" {name}={value}" for name, value in scope["said"].items())
            access.info("%s %s %s %s %d %.3fs%s", number, client, scope["method"], raw, status, seconds, said)


class Guard:
    """ASGI middleware: the API key, and the names under which a server without one may be called.

    A server on the loopback without a key answers only to loopback names, or else a page elsewhere could reach it by a
    name of its own that is made to point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app, self._config = app, config
        self._digest = None if config.api_key is None else _digest(config.api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal.response())(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._digest is None:
            if self._config.on_loopback and not _is_loopback(headers.get("host", "")):
                return ApiError(403, "a server without an API key answers to loopback names only", code="wrong_host")
            return None
        open_metrics = scope["path"] == "/metrics" and self._config.on_loopback
        if open_metrics or not (scope["path"].startswith("/v1/") or scope["path"] == "/metrics"):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Digests have one length whatever the key: comparing them takes the same time.
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(key.strip().encode()), self._digest):
            return None
        what = "the API key is wrong" if key else "an API key is needed: Authorization: Bearer KEY"
        return ApiError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
