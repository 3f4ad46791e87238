"""One HTTP request: bounded in time and bytes, no redirects, errors without secrets."""

import asyncio
import email.utils
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm.answers import one_line
from anchortrain.annotate.llm.settings import api_key, endpoint_of

if TYPE_CHECKING:
    import httpx2

MAX_BYTES = 1 << 20  # of an answer
CONNECT_SECONDS = 20.0
_SECRET_CHARACTERS = 8  # shorter "keys", such as EMPTY, only satisfy servers that want any

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# No proxy stands before a server on this machine, whatever the environment says.
_DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    text: str
    retry_after: float | None  # seconds


class Lost(Exception):
    """No whole answer came back. Without `sent`, the server never got the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.reason, self.sent = reason, sent
        super().__init__(reason)


class Client:
    """Connections to the endpoint. Lives on one event loop."""

    def __init__(self, config: LlmConfig) -> None:
        import httpx2

        endpoint, self._key = endpoint_of(config), api_key(config)
        self.host = endpoint.shown  # host:port, for messages
        self.has_key = bool(self._key)
        self.replies = 0  # answers of any status so far
        self._url, self._seconds = endpoint.url, config.timeout_seconds
        # Compressed answers could grow beyond all bounds while they are read.
        headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        parts = urlsplit(endpoint.url)
        plain = parts.scheme == "http" and parts.hostname in _THIS_MACHINE
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(config.timeout_seconds, connect=min(CONNECT_SECONDS, config.timeout_seconds)),
            limits=httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
            follow_redirects=False,
            verify=not plain,  # certificates take long to load, and none is shown there
            mounts={pattern: None for pattern in _DIRECT},
        )

    async def post(self, body: bytes) -> Reply:
        """Sends one request. Raises Lost when no whole answer of at most MAX_BYTES came back in time."""
        import httpx2

        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.PoolTimeout) as error:
            why = self.redact(str(error)) or type(error).__name__
            raise Lost(f"cannot connect: {one_line(why, 120)}", sent=False) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise Lost(f"no whole answer within {self._seconds:g} seconds", sent=True) from None
        except httpx2.RemoteProtocolError:
            raise Lost("the connection was cut, or the answer is no HTTP", sent=True) from None
        except httpx2.HTTPError as error:
            raise Lost(f"the connection was lost ({type(error).__name__})", sent=True) from None

    async def _post(self, body: bytes) -> Reply:
        async with self._client.stream("POST", self._url, content=body) as response:
            self.replies += 1
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise Lost("the answer is compressed, which was not asked for", sent=True)
            read = bytearray()
            async for piece in response.aiter_raw():
                read += piece
                if len(read) > MAX_BYTES:
                    raise Lost(f"the answer is longer than {MAX_BYTES >> 20} MiB", sent=True)
            text = self.redact(read.decode("utf-8", errors="replace"))
            return Reply(response.status_code, text, retry_after(response.headers))

    def redact(self, text: str) -> str:
        """Text without the key, should a server repeat it."""
        return text.replace(self._key, "[key]") if len(self._key) >= _SECRET_CHARACTERS else text

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()


def retry_after(headers: "Mapping[str, str] | httpx2.Headers") -> float | None:
    """The seconds of a Retry-After header, which has them or an HTTP date; None without a valid one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    then = _date(text)
    if then is None:
        return None
    # The server's own clock, where it tells: ours may differ.
    now = _date(headers.get("date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
