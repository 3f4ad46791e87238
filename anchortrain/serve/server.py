"""Runs the application under uvicorn: ready when the model is warm, draining on SIGTERM."""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from anchortrain.errors import UserError
from anchortrain.serve.service import Service
from anchortrain.serve.settings import ServeConfig
from anchortrain.serve.worker import Failed

_log = logging.getLogger(__name__)
_BACKLOG = 2048
_KEEP_ALIVE_S = 30
_LAST_WORDS_S = 0.2  # for those who are cut off to be told so
_AFTER_GRACE_S = 2  # for connections to close


def bind(config: ServeConfig) -> socket.socket:
    """A listening address, before anything slow is done. Raises UserError when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        mend = "choose another --host or --port"
        raise UserError(
            (error.strerror or str(error)).lower(), where=f"{config.host}:{config.port}", mend=mend
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a bound server is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its end.

    While it drains it still listens, so that those who ask `/ready` or for samples are told (503) rather than cut off.
    A second signal ends the process at once.
    """

    def __init__(self, app: Starlette, config: ServeConfig, *, on_ready: Callable[[], None] = lambda: None) -> None:
        self._on_ready = on_ready
        self._service: Service = app.state.service
        self._grace = config.grace_s
        self._drain: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http="h11",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_AFTER_GRACE_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins the sampler's thread, listens, then says so: who reads the address may connect at once."""
        self._service.worker.start()
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self._service.worker.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes SIGTERM and SIGINT. The signal is not raised again at the end: the process exits with 0."""
        if self._service.draining:
            os._exit(128 + sig)
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._service.draining and self._drain is None:
            _log.info("draining: %d requests are running", self._service.running)
            self._drain = asyncio.create_task(self._finish())
        return await super().on_tick(counter)

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(self._grace):
                while self._service.running:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            _log.warning("%d requests are cut off after %g s", self._service.running, self._grace)
            self._service.worker.end(Failed("the server is shutting down", status=503, code="draining"))
            await asyncio.sleep(_LAST_WORDS_S)
        self.should_exit = True


def run(app: Starlette, config: ServeConfig, bound: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Serves until a signal; returns after the drain. Calls `on_ready` once it listens and takes signals."""
    Server(app, config, on_ready=on_ready).run(sockets=[bound])
    gc.freeze()  # the process ends now: searching model and programs for garbage would take it seconds


def log_to_stderr() -> None:
    """One line a request and what goes wrong, on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name in ("anchortrain", "uvicorn"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "anchortrain" else logging.WARNING)
