"""The ASGI application: which address does what."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anchortrain.serve import playground
from anchortrain.serve.errors import ApiError, on_api_error, on_failure, on_http_error
from anchortrain.serve.fields import ChatBody, CompletionBody
from anchortrain.serve.metrics import Metrics
from anchortrain.serve.observe import Guard, Observe
from anchortrain.serve.service import Served, Service
from anchortrain.serve.settings import ServeConfig
from anchortrain.serve.worker import AnySampler, Worker


def make_app(sampler: AnySampler, served: Served, config: ServeConfig) -> Starlette:
    """The application. `app.state.service` is its `Service`; the sampler is its own from now on."""
    metrics = Metrics(places=config.places)
    worker = Worker(sampler, on_state=metrics.on_state)
    service = Service(served, worker, config, metrics)
    created = int(time.time())

    def model() -> dict[str, Any]:
        defaults = served.defaults
        return {
            "id": config.name,
            "object": "model",
            "created": created,
            "owned_by": "anchortrain",
            "anchortrain": {
                "keys": list(served.keys),
                "defaults": {
                    "mode": defaults.mode,
                    "constrain": defaults.constrain,
                    "temperature": defaults.response_temperature,
                    "top_p": defaults.response_top_p,
                    "max_tokens": defaults.max_response_tokens,
                    "annotation_temperature": defaults.annotation_temperature,
                    "max_annotation_tokens": defaults.max_annotation_tokens,
                },
                "limits": {
                    name: getattr(config, name)
                    for name in ("max_n", "max_tokens", "max_annotation_tokens", "max_prompt_tokens")
                },
            },
        }

    async def chat(request: Request) -> Response:
        return await service.answer(request, ChatBody)

    async def completions(request: Request) -> Response:
        return await service.answer(request, CompletionBody)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model()]})

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != config.name:
            raise ApiError(404, f"there is only the model {config.name!r} here", param="model", code="model_not_found")
        return JSONResponse(model())

    async def health(request: Request) -> Response:
        if worker.failure is not None:
            raise ApiError(500, str(worker.failure), code="sampler_failed")
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        if service.draining or worker.failure is not None:
            raise ApiError(503, "draining" if service.draining else str(worker.failure), code="not_ready")
        return JSONResponse({"status": "ready"})

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def page(request: Request) -> Response:
        return Response(playground.page(), media_type="text/html", headers=playground.headers())

    get: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/v1/models", models),
        ("/v1/models/{name:path}", one_model),
        ("/health", health),
        ("/ready", ready),
        ("/metrics", show_metrics),
        ("/", page),
    ]
    middleware = [Middleware(Observe, metrics=metrics)]
    if config.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(config.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # clients send many of their own; who may ask is decided by the origin
                expose_headers=["retry-after", "x-request-id"],
            )
        )
    middleware.append(Middleware(Guard, config=config))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get),
        ],
        middleware=middleware,
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, Exception: on_failure},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app
