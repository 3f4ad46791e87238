"""The llm annotator: batches from several threads on one event loop."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm import budget as budgets
from anchortrain.annotate.llm import cache as caches
from anchortrain.annotate.llm.asker import Asker
from anchortrain.annotate.llm.client import Client
from anchortrain.annotate.llm.database import Database
from anchortrain.annotate.llm.prompts import load_template
from anchortrain.annotate.llm.requests import Question, question_key
from anchortrain.annotate.llm.settings import check
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Schema
from anchortrain.errors import UserError

FILE = "llm.sqlite"  # in the annotator's directory, and in that of a cache elsewhere

T = TypeVar("T")


class LlmAnnotator:
    """Asks a language model. See `passages.Annotator`; `annotate` may be called from several threads at once."""

    def __init__(self, config: LlmConfig, schema: Schema, directory: Path) -> None:
        """Opens cache and spending in `directory` (made if absent); the cache is elsewhere if the config says so.

        Raises UserError on a bad configuration, template or key, and when the files cannot be written.
        """
        check(config)
        self._config, self._schema = config, schema
        self._template = load_template(config.prompt, schema)
        self._client = Client(config)
        with contextlib.ExitStack() as opened:
            # An answer and what it cost share a file, and often a transaction.
            jobs = shared = Database(Path(directory) / FILE, f"{caches.TABLE};{budgets.TABLE}")
            opened.callback(jobs.close_now)
            if config.cache and Path(config.cache).resolve() != Path(directory).resolve():
                shared = Database(Path(config.cache) / FILE, caches.TABLE)
                opened.callback(shared.close_now)
            self._budget = budgets.Budget(config, jobs)
            opened.pop_all()
        self._databases = {jobs, shared}
        self._asker = Asker(config, schema, self._client, caches.Cache(shared), self._budget)
        self._asked: dict[bytes, asyncio.Task[Answer]] = {}  # in flight; identical passages share a task
        self._batches: set[asyncio.Future[Any]] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        """One answer for each passage, in order; every good one is durable. Raises UserError when no later passage can
        succeed either; what was in flight then is still finished and saved."""
        future = self._start(self._annotate(passages))
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise UserError("the llm annotator was closed before all was answered; what is finished is saved") from None

    async def _annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        batch = asyncio.gather(*map(self._answer, passages), return_exceptions=True)
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)
        answers = await batch
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, Answer)]

    async def _answer(self, passage: Passage) -> Answer:
        if self._closed:
            raise asyncio.CancelledError
        keys = self._schema.keys_for(passage.kind)
        if not keys or not passage.text.strip():
            return Answer(None)
        messages = self._template.messages(self._schema, passage, self._config.context_characters)
        question = Question(messages, keys, passage.kind)
        key = question_key(self._config, question, self._schema.max_tags)
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._asker.ask(key, question))
            task.add_done_callback(lambda _: self._asked.pop(key))
        return await task

    def spent(self) -> dict[str, int | float]:
        """Requests, prompt_tokens, answer_tokens and cost of all runs of the job; what is in flight does not count yet.

        Where the server did not tell, these are upper bounds.
        """
        spent = self._budget.spent()._asdict()
        return spent | {"cost": round(max(0.0, spent["cost"]), 9)}

    def close(self) -> None:
        """Cancels what is in flight and closes connections and files. May be called again, and from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._loop is None:
            for database in self._databases:
                database.close_now()
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()
        # Until whoever waits for a batch has been told.
        await asyncio.gather(*self._batches, return_exceptions=True)
        await self._client.close()
        for database in self._databases:
            await database.close()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        with self._lock:
            if self._closed:
                coroutine.close()
                raise UserError("the llm annotator is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: a program that ends without `close` does not wait for servers.
                self._thread = threading.Thread(target=self._loop.run_forever, name="annotate-llm", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
