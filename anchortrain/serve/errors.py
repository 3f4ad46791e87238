"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_MOST_CHARACTERS = 500  # of a message: it may quote what is wrong, which may be the whole body
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered: HTTP status, what to say, and the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if len(message) > _MOST_CHARACTERS:
            message = f"{message[: _MOST_CHARACTERS - 1]}…"
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, such as an unknown path, in the same form."""
    assert isinstance(error, HTTPException)
    path, said = request.url.path, error.detail
    if error.status_code == 404:
        said = f"there is nothing at {path}"
    elif error.status_code == 405:
        said = f"{request.method} is not possible at {path}"
    return ApiError(error.status_code, said, headers=error.headers).response()


async def on_failure(request: Request, error: Exception) -> Response:
    """What is a mistake of the server; the log has the traceback."""
    return ApiError(500, "the server failed; its log says why").response()
