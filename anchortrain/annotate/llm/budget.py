"""What a job has spent over all its runs, and whether another request may be sent.

A request reserves the most that it can cost before it is sent, and is settled by the server's `usage` afterwards. While
its outcome is unknown (a timeout, a lost connection, a killed process, no `usage`) the reservation counts as spent, so
that no limit is ever passed.
"""

import asyncio
import sqlite3
from types import TracebackType
from typing import NamedTuple, Self

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm.database import Database

TABLE = """CREATE TABLE IF NOT EXISTS spending (
    one INTEGER PRIMARY KEY CHECK (one = 1), requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, answer_tokens INTEGER NOT NULL, cost REAL NOT NULL
);
INSERT OR IGNORE INTO spending VALUES (1, 0, 0, 0, 0.0)"""

_SELECT = "SELECT requests, prompt_tokens, answer_tokens, cost FROM spending"
_ADD = """UPDATE spending SET requests = requests + ?, prompt_tokens = prompt_tokens + ?,
    answer_tokens = answer_tokens + ?, cost = cost + ?"""


class Spending(NamedTuple):
    """Amounts; `cost` is in the unit of the prices."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0

    def plus(self, other: "Spending", sign: int = 1) -> "Spending":
        return Spending(*(a + sign * b for a, b in zip(self, other, strict=True)))


class BudgetUsed(Exception):
    """No request can be sent any more; `field` is the limit of LlmConfig that was reached."""

    def __init__(self, field: str) -> None:
        self.field = field
        super().__init__(field)


class Budget:
    """The limits of a job and what was spent of them."""

    def __init__(self, config: LlmConfig, database: Database) -> None:
        self._config, self._database = config, database
        self._total = database.run_now(_read)
        self._held = Spending()  # reserved by requests in flight
        self._open = 0  # requests that have reserved, or try to
        self._changed = asyncio.Event()  # replaced by a new one whenever something is settled

    def spent(self) -> Spending:
        """All that was spent; the reservations of this process's requests in flight do not count yet."""
        return self._total.plus(self._held, -1)

    def amount(self, requests: int, prompt_tokens: int, answer_tokens: int) -> Spending:
        """These with their cost."""
        config = self._config
        cost = (prompt_tokens * config.prompt_price + answer_tokens * config.answer_price) / 1e6
        return Spending(requests, prompt_tokens, answer_tokens, cost)

    async def reserve(self, prompt_tokens: int, answer_tokens: int) -> "Reservation":
        """The right to send one request; waits for others to be settled where that may make room.

        Args:
          prompt_tokens: the most that the request may have.
          answer_tokens: the most that its answer may have.
        Raises BudgetUsed when there is none, UserError when it cannot be written.
        """
        most = self.amount(1, prompt_tokens, answer_tokens)
        while True:
            changed = self._changed
            self._open += 1
            try:
                field, total = await self._database.run(lambda connection: self._take(connection, most))
            except BaseException:
                self._release()
                raise
            self._total = total
            if field is None:
                self._held = self._held.plus(most)
                return Reservation(self, most)
            self._open -= 1
            if self._open == 0 and changed is self._changed:
                self._release(count=0)
                raise BudgetUsed(field)
            await changed.wait()

    def _take(self, connection: sqlite3.Connection, most: Spending) -> tuple[str | None, Spending]:
        total = _read(connection)
        after = total.plus(most)
        tokens = after.prompt_tokens + after.answer_tokens
        reached = {"max_requests": after.requests, "max_tokens": tokens, "max_cost": after.cost}
        for field, amount in reached.items():
            if 0 < getattr(self._config, field) < amount:
                return field, total
        return None, _add(connection, most)

    async def settle(self, most: Spending, actual: Spending | None) -> None:
        """Replaces a reservation by what was spent; None keeps it."""
        try:
            if actual is not None:
                difference = actual.plus(most, -1)
                self._total = await self._database.run(lambda connection: _add(connection, difference))
        finally:
            self._held = self._held.plus(most, -1)
            self._release()

    def _release(self, count: int = 1) -> None:
        self._open -= count
        self._changed.set()
        self._changed = asyncio.Event()


class Reservation:
    """Async context manager around one request. Once it is sent, it counts as a whole until `spent` says otherwise."""

    def __init__(self, budget: Budget, most: Spending) -> None:
        self._budget, self._most = budget, most
        self._actual: Spending | None = Spending()

    def sent(self) -> None:
        """From here on its cost is unknown."""
        self._actual = None

    def spent(self, requests: int, prompt_tokens: int, answer_tokens: int) -> None:
        """What it has cost."""
        self._actual = self._budget.amount(requests, prompt_tokens, answer_tokens)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._budget.settle(self._most, self._actual)


def _read(connection: sqlite3.Connection) -> Spending:
    return Spending(*connection.execute(_SELECT).fetchone())


def _add(connection: sqlite3.Connection, amount: Spending) -> Spending:
    connection.execute(_ADD, amount)
    return _read(connection)
