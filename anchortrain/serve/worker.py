"""One thread owns the sampler; requests speak with it through `Worker.draw`.

Orders go to the thread through a queue, and what was drawn comes back to the event loop through callbacks, in order.
All book-keeping is on the loop's side, so that nothing is locked. Updates hold all that was drawn so far, hence a
reader who is slow gets fewer of them and none pile up.
"""

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from anchortrain.decode.loop import CHUNK
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering
from anchortrain.decode.stream import Update
from anchortrain.errors import UserError

# Tokens between two updates: few while somebody reads along, many where only the whole counts; but no more than take
# this long, because a client that leaves, or comes, waits for them.
_STREAM_TOKENS = 8
_STEP_SECONDS = 0.2

_log = logging.getLogger(__name__)


class Draw(NamedTuple):
    """A sample to draw; see `Sampler.submit`."""

    prompt: tuple[int, ...]
    config: SamplingConfig
    seed: int
    index: int
    steering: Steering


class AnySampler(Protocol):
    """What the worker needs of `decode.stream.Sampler`."""

    @property
    def in_flight(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def submit(
        self, prompt: Sequence[int], config: SamplingConfig, *, seed: int, index: int, steering: Steering
    ) -> int: ...
    def cancel(self, number: int) -> None: ...
    def step(self, tokens: int = ..., *, idle: int | None = ...) -> list[Update]: ...


class Failed(Exception):
    """Nothing more can be drawn: the sampler broke down, or the server ends."""

    def __init__(self, why: str, *, status: int = 500, code: str = "sampler_failed") -> None:
        super().__init__(why)
        self.status, self.code = status, code


class Draws:
    """Samples of one request under way. Belongs to the event loop; `close` must be called."""

    def __init__(self, worker: "Worker", count: int, *, watched: bool) -> None:
        self._worker, self.watched = worker, watched
        self.open = set(range(count))
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self._numbers: dict[int, int] = {}  # place among the draws -> number
        self._fresh: dict[int, Update] = {}
        self._news = asyncio.Event()
        self._failure: Failed | None = None

    async def updates(self) -> dict[int, Update]:
        """The last news of each sample that has some, by place among the draws. Raises Failed."""
        await self._news.wait()
        self._news.clear()
        if self._failure is not None:
            raise self._failure
        fresh, self._fresh = self._fresh, {}
        return fresh

    def cancel(self, place: int) -> None:
        """Nothing more of this sample is wanted."""
        if place in self.open:
            self.open.remove(place)
            self._fresh.pop(place, None)
            self._worker._forget([self._numbers[place]] if place in self._numbers else [], 1)

    def close(self) -> None:
        """Frees whatever is still held; may be called at any time, and again."""
        if not self.closed:
            self.closed = True
            count, self.open = len(self.open), set()
            self._worker._forget(list(self._numbers.values()), count)
            self._worker._closed(self)

    def _put(self, place: int, update: Update) -> None:
        if place not in self.open:
            return
        self._fresh[place] = update
        if update.done:
            self.open.remove(place)
            self._worker.outstanding -= 1
        self._news.set()

    def _fail(self, failure: Failed) -> None:
        self._failure = failure
        if not self.accepted.done():
            self.accepted.set_exception(failure)
            self.accepted.exception()  # nobody may be waiting any more
        self._news.set()


@dataclasses.dataclass(frozen=True)
class _Submit:
    draws: Draws
    wanted: Sequence[Draw]


@dataclasses.dataclass(frozen=True)
class _Cancel:
    numbers: list[int]


class _Stop:
    pass


class Worker:
    """Draws for all requests. Made and used on the event loop; `start` begins its thread.

    Attributes:
      outstanding: samples that were asked for and are neither done nor given up.
      in_flight, waiting: samples that have a place, and that wait for one, as the thread last said.
      failure: why nothing can be drawn any more, or None.
    """

    def __init__(self, sampler: AnySampler, *, on_state: Callable[[int, int], None] = lambda *_: None) -> None:
        """Calls `on_state(in_flight, waiting)` after each step."""
        self._sampler, self._on_state = sampler, on_state
        self._orders: queue.SimpleQueue[_Submit | _Cancel | _Stop] = queue.SimpleQueue()
        self._routes: dict[int, tuple[Draws, int]] = {}  # number -> whose, which
        self._all: set[Draws] = set()
        self._watched = 0
        self.outstanding = self.in_flight = self.waiting = 0
        self.failure: Failed | None = None
        self._drawing: set[int] = set()  # the thread's: numbers that are neither done nor cancelled
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its present step."""
        self._orders.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    def end(self, failure: Failed) -> None:
        """Gives up all that is under way, and whatever is asked for later."""
        self.failure = failure
        for draws in list(self._all):
            draws._fail(failure)

    async def draw(self, wanted: Sequence[Draw], *, watched: bool) -> Draws:
        """Queues samples.

        Args:
          wanted: the samples, at least one.
          watched: whether their tokens are wanted as they come.

        Raises:
          UserError: when one of them cannot be drawn; then none is.
          Failed: when nothing can.
        """
        if self.failure is not None:
            raise self.failure
        draws = Draws(self, len(wanted), watched=watched)
        self._all.add(draws)
        self.outstanding += len(wanted)
        self._watched += watched
        self._orders.put(_Submit(draws, wanted))
        try:
            await draws.accepted
        except BaseException:
            draws.close()
            raise
        return draws

    # -- on the loop -------------------------------------------------------------------------------

    def _forget(self, numbers: list[int], count: int) -> None:
        self.outstanding -= count
        held = [number for number in numbers if self._routes.pop(number, None) is not None]
        if held:
            self._orders.put(_Cancel(held))

    def _closed(self, draws: Draws) -> None:
        self._watched -= draws.watched
        self._all.discard(draws)

    def _accept(self, draws: Draws, numbers: list[int], error: UserError | None) -> None:
        if draws.closed:  # its client left meanwhile
            self._orders.put(_Cancel(numbers))
        elif error is not None:
            draws.accepted.set_exception(error)
        else:
            draws._numbers = dict(enumerate(numbers))
            self._routes |= {number: (draws, place) for place, number in enumerate(numbers)}
            if not draws.accepted.done():
                draws.accepted.set_result(None)

    def _deliver(self, updates: list[Update], in_flight: int, waiting: int) -> None:
        self.in_flight, self.waiting = in_flight, waiting
        self._on_state(in_flight, waiting)
        for update in updates:
            route = self._routes.get(update.number)
            if route is not None:
                if update.done:
                    del self._routes[update.number]
                route[0]._put(route[1], update)

    def _lost(self, error: UserError) -> None:
        for draws in {draws for draws, _ in self._routes.values()}:
            draws._fail(Failed(str(error)))

    def _broken(self, error: BaseException) -> None:
        self._deliver([], 0, 0)
        self.end(Failed(f"nothing can be drawn any more: {error}"))

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tokens = 1
            while self._obey():
                began = time.monotonic()
                updates = self._step(tokens)
                per_token = (time.monotonic() - began) / tokens
                tokens = max(1, min(_STREAM_TOKENS if self._watched else CHUNK, int(_STEP_SECONDS / per_token)))
                self._tell(self._deliver, updates, self._sampler.in_flight, self._sampler.waiting)
        except BaseException as error:
            _log.exception("the sampler failed")
            self._tell(self._broken, error)

    def _step(self, tokens: int) -> list[Update]:
        try:
            updates = self._sampler.step(tokens)
        except UserError as error:  # numbers that are not finite: whose they were is not said, so all are given up
            _log.error("samples were lost: %s", error)
            for number in self._drawing:
                self._sampler.cancel(number)
            self._drawing.clear()
            self._tell(self._lost, error)
            return []
        self._drawing.difference_update(update.number for update in updates if update.done)
        return updates

    def _obey(self) -> bool:
        """Takes all orders, waiting for one where there is nothing to draw. False ends the thread."""
        while True:
            idle = not (self._sampler.in_flight or self._sampler.waiting)
            try:
                order = self._orders.get(block=idle)
            except queue.Empty:
                return True
            if isinstance(order, _Stop):
                return False
            if isinstance(order, _Submit):
                self._submit(order)
            else:
                for number in order.numbers:
                    self._sampler.cancel(number)
                self._drawing.difference_update(order.numbers)
                self._tell(self._deliver, [], self._sampler.in_flight, self._sampler.waiting)

    def _submit(self, order: _Submit) -> None:
        numbers: list[int] = []
        try:
            for draw in order.wanted:
                prompt, config, seed, index, steering = draw
                numbers.append(self._sampler.submit(prompt, config, seed=seed, index=index, steering=steering))
        except UserError as error:
            for number in numbers:
                self._sampler.cancel(number)
            self._tell(self._accept, order.draws, [], error)
        else:
            self._drawing.update(numbers)
            self._tell(self._accept, order.draws, numbers, None)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the process ends
            _log.debug("the event loop has ended")
