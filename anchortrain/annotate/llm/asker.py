"""One question asked until it is answered, set aside, or nothing more can be asked."""

from typing import NoReturn

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm.answers import BadAnswer, envelope, error_of, one_line, usage, values
from anchortrain.annotate.llm.budget import Budget, BudgetUsed, Reservation
from anchortrain.annotate.llm.cache import Cache
from anchortrain.annotate.llm.client import Client, Lost, Reply
from anchortrain.annotate.llm.pace import Pace
from anchortrain.annotate.llm.requests import Dialect, Question, encode, first_dialect, request, step_down
from anchortrain.annotate.passages import Answer
from anchortrain.annotate.schema import Schema
from anchortrain.annotation import Annotation
from anchortrain.errors import UserError

_WORDING = (400, 413, 422)  # this very request is refused
_NO_ACCESS = (401, 403)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")  # codes; the status is 402 or 429
_WRONG_PLACE = (404, 405, 410)  # and redirects
_RETRIED = (408, 409, 425, 429)  # and all from 500 on
_WITH_PAUSE = (429, 503)
_PERHAPS_PAID = (500, 502, 504)  # the model may have answered before something broke


class _Failed(Exception):
    """An attempt that came to nothing.

    `complaint` is told to the model with the next one. `lost` is set when no answer came, `busy` when the server had
    too much to do. A `free` attempt does not count, and the next follows at once.
    """

    def __init__(
        self, reason: str, *, complaint: str = "", lost: Lost | None = None, busy: bool = False, free: bool = False
    ) -> None:
        self.reason, self.complaint, self.lost, self.busy, self.free = reason, complaint, lost, busy, free
        super().__init__(reason)


class _Hopeless(Exception):
    """This passage would be refused again; the text says why."""


class Asker:
    """Asks one server. Lives on one event loop, where any number of questions are asked at once."""

    def __init__(self, config: LlmConfig, schema: Schema, client: Client, cache: Cache, budget: Budget) -> None:
        self._config, self._schema = config, schema
        self._client, self._cache, self._budget = client, cache, budget
        self._pace = Pace(config.concurrency, config.backoff_seconds)
        self._dialect = first_dialect(config)
        self._served = 0  # requests with an answer of the model

    async def ask(self, key: bytes, question: Question) -> Answer:
        """The answer, from the cache where it is there. Raises UserError when no later question can be answered."""
        try:
            if (known := await self._cache.get(key)) is not None:
                return Answer(known)
            return await self._ask(key, question)
        except UserError as error:
            self._pace.stop(error)
            raise

    async def _ask(self, key: bytes, question: Question) -> Answer:
        failures, tries, complaint = 0, 0, ""
        replies = served = 0
        while True:
            try:
                async with self._pace.slot():
                    if not tries:
                        replies, served = self._client.replies, self._served
                    return Answer(await self._attempt(key, question, complaint))
            except _Hopeless as refused:
                return Answer(None, one_line(str(refused)))
            except _Failed as failed:
                tries, complaint = tries + 1, failed.complaint or complaint
                # While a busy server serves others, this one only waits for its turn.
                failures += not (failed.free or failed.busy and self._served > served)
                served, again = self._served, failed
            if failures >= self._config.attempts:
                self._check_reachable(again, replies)
                return Answer(None, one_line(f"{again.reason} (after {tries} attempts)"))
            if not again.free:
                await self._pace.back_off(tries)

    def _check_reachable(self, failed: _Failed, replies: int) -> None:
        """Raises UserError when the endpoint never answered, or nothing since this question was first asked."""
        silent = not self._client.replies or self._client.replies == replies and failed.lost and not failed.lost.sent
        if failed.lost and silent:
            mend = "start the server or correct LlmConfig.endpoint; what is finished is saved"
            raise UserError(f"the endpoint does not answer: {failed.reason}", where=self._client.host, mend=mend)

    async def _attempt(self, key: bytes, question: Question, complaint: str) -> Annotation:
        """One request. Raises _Failed, _Hopeless or UserError."""
        if (known := await self._cache.get(key)) is not None:  # by another process, while this one waited
            return known
        dialect = self._dialect
        body = encode(request(self._config, question, dialect, complaint))
        async with await self._reserve(body) as reservation:
            await self._pace.ready()  # for a pause that began meanwhile
            reservation.sent()
            try:
                reply = await self._client.post(body)
            except Lost as lost:
                if not lost.sent:
                    reservation.spent(0, 0, 0)
                raise _Failed(lost.reason, lost=lost) from None
            if reply.status // 100 == 2:
                self._served += 1
                return await self._cache.put(key, self._read(reply, question, reservation))
            if reply.status not in _PERHAPS_PAID:
                reservation.spent(1, 0, 0)
            self._refused(reply, dialect)

    async def _reserve(self, body: bytes) -> Reservation:
        try:
            # No tokenizer makes more tokens than there are bytes, and the body has more than the model reads.
            return await self._budget.reserve(len(body), self._config.max_answer_tokens)
        except BudgetUsed as used:
            mend = f"what is finished is saved; raise LlmConfig.{used.field} to go on"
            raise UserError(
                f"the job's budget has no room for another request (LlmConfig.{used.field})", mend=mend
            ) from None

    def _read(self, reply: Reply, question: Question, reservation: Reservation) -> Annotation:
        try:
            content = envelope(reply.text)
            if counted := usage(content):
                reservation.spent(1, *counted)
            found = values(content, [key.name for key in question.keys])
        except BadAnswer as bad:
            complaint = bad.reason if bad.complaint else ""
            raise _Failed(f"bad answer: {bad.reason}" if complaint else bad.reason, complaint=complaint) from None
        return self._schema.annotation(found, question.kind)

    def _refused(self, reply: Reply, dialect: Dialect) -> NoReturn:
        """What follows from an error status. Raises _Failed, _Hopeless or UserError."""
        status, said, code = reply.status, *error_of(reply.text)
        what = f"the server answered {status}{f': {said}' if said else ''}"
        self._check_fatal(status, code, what)
        if reply.retry_after is not None and status in _WITH_PAUSE:
            self._pace.pause(reply.retry_after)
        if status in _WORDING:
            self._adapt(dialect, reply.text)
        if status in _RETRIED or status >= 500:
            raise _Failed(what, busy=status == 429)
        raise _Hopeless(what)

    def _check_fatal(self, status: int, code: str, what: str) -> None:
        where, variable = self._client.host, self._config.api_key_env or "LlmConfig.api_key_env"
        mend = None
        if status in _NO_ACCESS:
            mend = f"{'check' if self._client.has_key else 'set'} the key in the environment variable {variable}"
        elif status == 402 or code in _NO_CREDIT:
            mend = "add credit to the account of the key"
        elif status in _WRONG_PLACE or status < 400:
            mend = "correct LlmConfig.endpoint (/chat/completions follows it) or LlmConfig.model"
        if mend:
            raise UserError(what, where=where, mend=f"{mend}; what is finished is saved")

    def _adapt(self, dialect: Dialect, text: str) -> None:
        """Raises _Failed, for free, when the request may succeed in another dialect; it is spoken from then on."""
        lower = step_down(dialect, text, auto=self._config.structured == "auto")
        if lower:
            if self._dialect == dialect:  # not yet changed by another request
                self._dialect = lower
            raise _Failed("the server refuses every form of the request", free=True)
