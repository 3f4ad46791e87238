"""From the body of a request to its answer: limits, time, and clients that leave."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.serve.choices import Choice, Piece
from anchortrain.serve.errors import ApiError
from anchortrain.serve.fields import ChatBody, CompletionBody, parse
from anchortrain.serve.metrics import Metrics
from anchortrain.serve.replies import DONE, Reply, event
from anchortrain.serve.requests import Ask, ask_of
from anchortrain.serve.settings import ServeConfig
from anchortrain.serve.worker import Draws, Failed, Worker

_log = logging.getLogger(__name__)
_READ_ON = 8  # times the permitted body
_SLOW_READER_S = 10.0  # to take what is left once the time of a request is over
_T = TypeVar("_T")


class Served(NamedTuple):
    """What is served."""

    vocabulary: Vocabulary
    defaults: SamplingConfig
    keys: tuple[str, ...]  # of the schema
    fingerprint: str  # of the weights


class Service:
    """Answers the two endpoints that sample."""

    def __init__(self, served: Served, worker: Worker, config: ServeConfig, metrics: Metrics) -> None:
        self.served, self.worker, self.config, self._metrics = served, worker, config, metrics
        self.draining = False
        self.running = 0  # requests

    async def answer(self, request: Request, kind: type[ChatBody] | type[CompletionBody]) -> Response:
        """The response to a request for samples. Raises ApiError."""
        self._admit()
        began = time.monotonic()
        deadline = asyncio.get_running_loop().time() + self.config.timeout_s
        self.running += 1
        handed_on = False
        try:
            async with asyncio.timeout_at(deadline):
                content = await self._body(request)
            body = parse(kind, content)
            if body.model != self.config.name:
                what = f"there is no model {body.model[:100]!r} here, only {self.config.name!r}"
                raise ApiError(404, what, param="model", code="model_not_found")
            served = self.served
            # Tokenising a long text would hold up every stream.
            ask = await asyncio.to_thread(ask_of, body, served.vocabulary, served.keys, served.defaults, self.config)
            request.scope["said"] |= {"n": len(ask.draws), "stream": int(ask.stream)}
            reply = Reply(
                served.vocabulary,
                ask,
                chat=kind is ChatBody,
                model=self.config.name,
                fingerprint=served.fingerprint,
            )
            answering = _Answering(self, ask, reply, request, began, deadline)
            if not ask.stream:
                return await answering.whole()
            response = await answering.stream()
            handed_on = isinstance(response, _EventStream)
            return response
        except TimeoutError:
            self._metrics.cancelled.labels("timeout").inc()
            raise _too_late(self.config) from None
        except ClientDisconnect:
            self._metrics.cancelled.labels("client").inc()
            return _Nothing()
        except Failed as error:
            self._metrics.cancelled.labels("failure").inc()
            raise _failure(error) from None
        finally:
            if not handed_on:
                self.running -= 1

    def _admit(self) -> None:
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="draining", headers={"Retry-After": "5"})

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "the body must be JSON: Content-Type: application/json", code="unsupported_media_type")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ApiError(415, "the body must not be compressed", code="unsupported_media_type")
        most, content = self.config.max_body, bytearray()
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() else 0
        # What is a little too long is read to its end, because many clients only listen once they have sent all.
        if size <= _READ_ON * most:
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size <= most:
                    content += piece
                elif size > _READ_ON * most:
                    break
        if size > most:
            headers = {"Connection": "close"} if size > _READ_ON * most else {}
            raise ApiError(413, f"the body may have {most} bytes", code="body_too_large", headers=headers)
        return bytes(content)

    async def begin(self, ask: Ask) -> Draws:
        """Queues the samples. Raises ApiError when there are too many, or one cannot be drawn."""
        self._admit()  # it may have begun to drain while the body came
        room = self.config.places + self.config.max_queue - self.worker.outstanding
        if len(ask.draws) > room:
            what = f"the queue is full: {max(room, 0)} more samples can wait, {len(ask.draws)} were asked for"
            raise ApiError(429, what, code="queue_full", headers={"Retry-After": "1"})
        try:
            draws = await self.worker.draw(ask.draws, watched=ask.stream)
        except UserError as error:
            # All else was seen before: only the grammar's shortest annotation is longer than the limit.
            param = "anchortrain.max_annotation_tokens"
            raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from None
        self._metrics.tokens.labels("prompt").inc(ask.prompt_tokens)
        return draws

    def ended(self, choices: list[Choice]) -> None:
        """Counts what was drawn, at the end of a request however it came."""
        for choice in choices:
            self._metrics.tokens.labels("annotation").inc(choice.annotation_tokens)
            self._metrics.tokens.labels("response").inc(choice.response_tokens)
            self._metrics.samples.labels(choice.finish_reason or "cancelled").inc()


class _Answering:
    """One request under way."""

    def __init__(
        self, service: Service, ask: Ask, reply: Reply, request: Request, began: float, deadline: float
    ) -> None:
        self._service, self._ask, self._reply = service, ask, reply
        self._request, self._began, self._deadline = request, began, deadline
        self._choices = [
            Choice(
                service.served.vocabulary,
                ask.stops,
                annotation=ask.annotation,
                two_stage=draw.config.mode == "two_stage",
            )
            for draw in ask.draws
        ]
        self._metrics, self._saw_text = service._metrics, False

    async def whole(self) -> Response:
        return await _unless_left(self._request, self._whole())

    async def _whole(self) -> Response:
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        async with asyncio.timeout_at(self._deadline):
            async with contextlib.aclosing(self._pieces()) as all_pieces:
                async for index, piece in all_pieces:
                    pieces[index].append(piece)
        return JSONResponse(self._reply.whole(self._choices, pieces))

    async def stream(self) -> Response:
        """Waits for the first piece, so that what goes wrong before it has a status of its own."""
        events = self._events()
        try:
            first = await _unless_left(self._request, anext(events))
        except BaseException:
            await events.aclose()
            raise
        return _EventStream(first, events, self._service, self._deadline)

    async def _events(self) -> AsyncIterator[bytes]:
        begun = False
        try:
            async with contextlib.aclosing(self._pieces()) as all_pieces:
                async for index, piece in all_pieces:
                    for chunk in self._reply.chunks(index, piece):
                        begun = True
                        yield event(chunk)
            if self._ask.usage:
                yield event(self._reply.last_chunk(self._choices))
            yield DONE
        except (TimeoutError, Failed) as error:
            if not begun:
                raise
            late = isinstance(error, TimeoutError)
            self._metrics.cancelled.labels("timeout" if late else "failure").inc()
            said = _too_late(self._service.config) if late else _failure(error)
            yield event(said.body())

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(choice, what is new of it) until all are finished. Raises TimeoutError, Failed, ApiError."""
        async with asyncio.timeout_at(self._deadline):
            draws = await self._service.begin(self._ask)
        try:
            open_choices = set(range(len(self._choices)))
            while open_choices:
                # Not around a yield: there the time is that of whoever reads.
                async with asyncio.timeout_at(self._deadline):
                    news = await draws.updates()
                for index, update in news.items():
                    piece = self._choices[index].take(update)
                    if piece.finish_reason is not None:
                        open_choices.discard(index)
                        draws.cancel(index)
                    if piece.text and not self._saw_text:
                        self._saw_text = True
                        path = self._request.scope["path"]
                        self._metrics.first.labels(path).observe(time.monotonic() - self._began)
                    yield index, piece
        finally:
            draws.close()
            self._service.ended(self._choices)
            usage = self._reply.usage(self._choices)
            self._request.scope["said"] |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}


class _EventStream(StreamingResponse):
    """Server-sent events; whatever ends them, the samples are given up."""

    def __init__(self, first: bytes, events: AsyncIterator[bytes], service: Service, deadline: float) -> None:
        self._events, self._service, self._deadline, self._ended = events, service, deadline, False

        async def all_events() -> AsyncIterator[bytes]:
            yield first
            async for one in events:
                yield one
            self._ended = True

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(all_events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline + _SLOW_READER_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            _log.warning("a client did not take its stream in time")
        finally:
            await self._events.aclose()
            self._service.running -= 1
            if not self._ended:
                self._service._metrics.cancelled.labels("client").inc()


class _Nothing(Response):
    """To a client that left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


async def _unless_left(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`. Raises ClientDisconnect, and ends the work, when the client leaves before."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _failure(error: Failed) -> ApiError:
    return ApiError(error.status, str(error), code=error.code)


def _too_late(config: ServeConfig) -> ApiError:
    return ApiError(504, f"the request took longer than {config.timeout_s:g} s", code="timeout")
