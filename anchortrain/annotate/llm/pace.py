"""When the next request may be sent: slots, pauses that all keep, backoff, and the stop of everything."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from anchortrain.errors import UserError

MAX_PAUSE_SECONDS = 120.0  # a server that asks for hours is asked again before
MAX_BACKOFF_SECONDS = 60.0


class Pace:
    """Shared by all requests of one event loop."""

    def __init__(self, concurrency: int, backoff_seconds: float) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._backoff = backoff_seconds
        self._until = 0.0  # of the pause, in the loop's time
        self._stopped = asyncio.Event()
        self._error: UserError | None = None

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of `concurrency`, entered when no pause is on. Raises the UserError that stopped everything."""
        async with self._slots:
            await self.ready()
            yield

    async def ready(self) -> None:
        """Waits for the end of a pause. Raises the UserError that stopped everything."""
        while (rest := self._until - asyncio.get_running_loop().time()) > 0 and not self._error:
            await self._sleep(rest)
        if self._error:
            raise UserError(str(self._error))  # a new one: each is raised in a task and thread of its own

    def pause(self, seconds: float) -> None:
        """No request is sent for so long."""
        until = asyncio.get_running_loop().time() + min(seconds, MAX_PAUSE_SECONDS)
        self._until = max(self._until, until)

    async def back_off(self, failures: int) -> None:
        """Sleeps before another try, twice as long after each failure, with jitter so that tries spread."""
        longest = min(MAX_BACKOFF_SECONDS, self._backoff * 2.0 ** min(failures - 1, 30))
        await self._sleep(longest * random.uniform(0.5, 1.0))

    def stop(self, error: UserError) -> None:
        """No request is sent any more; whoever waits gets the first error."""
        self._error = self._error or error
        self._stopped.set()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
