"""Many requests through one batch: a request waits for a place, has it until it is finished, and leaves it to the next.

The host touches the batch between chunks of tokens only. All shapes are of few sizes, so that few programs are ever
compiled: for each length of prompts (powers of two) and of the cache, with filters and without.

Shapes: B places, R prompts, P prompt tokens.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode import grammar as grammars
from anchortrain.decode.decoder import Decoder
from anchortrain.decode.filters import Filters
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.loop import CHUNK, Arrivals, Places, Settings, programs
from anchortrain.decode.settings import FILTERS, SamplingConfig
from anchortrain.decode.tables import GrammarPool
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role
from anchortrain.sharding import platform

# On a CPU products of 2 to 15 rows take longer than those of 16.
LEAST_PLACES = 16

_LEAST_PROMPT = 8  # slots
_SLOTS = 32  # the cache's capacity is a multiple of this
# A cache of more bytes does not fit into a processor's own: it is kept as small as what it holds. A smaller one has its
# full size from the beginning, which takes fewer programs.
_SMALL_CACHE = 32 << 20
_PREFILL_TOKENS = 16_384  # that are taken in one pass, at most


@dataclasses.dataclass(frozen=True)
class Request:
    """What to draw. A sample is a function of the weights and of this.

    Attributes:
      tokens: the prompt with `<bos>`, and what is given of the sample: at least one token.
      grammar: what may follow.
      config: temperatures, filters and limits; its mode and batch size are not used.
      seed, index: of the random numbers.
      given: tokens at the end of `tokens` that belong to an annotation that has begun, after its opening delimiter.
      value_ended: what is given ends with a value that is complete: it is not gone on with.
    """

    tokens: tuple[int, ...]
    grammar: GrammarKey
    config: SamplingConfig
    seed: int
    index: int
    given: int = 0
    value_ended: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """Most tokens to draw in an annotation, and from the first text on."""
        return self.config.max_annotation_tokens, self.config.max_response_tokens

    @property
    def most_tokens(self) -> int:
        """Of prompt and sample together."""
        annotation = self.config.max_annotation_tokens * (self.grammar.mode != "single_stage")
        response = self.config.max_response_tokens * (self.grammar.mode != "annotation")
        return len(self.tokens) - self.given + annotation + response


@dataclasses.dataclass
class Drawn:
    """What was drawn for a request so far: lists have an entry for each token."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    roles: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    stage_logprobs: tuple[float, float] = (0.0, 0.0)  # annotation, text
    wellformed: bool = False  # every annotation is, and the last is closed
    ended: bool = False  # the grammar permits nothing more; False where a limit cut it off
    finished: bool = False  # no more tokens will come


@dataclasses.dataclass
class Ticket:
    """A request with what the engine knows of it."""

    number: int
    request: Request
    start: int  # state
    value_left: int
    filtered: bool  # whether it has top-k, top-p, min-p or a penalty
    drawn: Drawn = dataclasses.field(default_factory=Drawn)
    base: int = -1  # of its grammar's page


class Engine:
    """Not for several threads at once.

    Every call of `step` lets all places draw some tokens. The same request gives the same sample whatever else is in
    flight, up to the rounding of matrix products, which may differ with the number of places.
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        keys: Sequence[str],
        *,
        places: int,
        most_tokens: int,
        mesh: Mesh | None = None,
    ) -> None:
        """Raises UserError when the vocabulary is not the model's.

        Args:
          keys: of the schema.
          places: requests that are in flight together.
          most_tokens: of a request's prompt and sample.
          mesh: as in training (`sharding.make_mesh`), over which the model lies: places are spread over `data` and
            `fsdp`, heads over `tensor`.
        """
        self._mesh = mesh
        self.columns = columns_of(model, vocabulary)
        self.pool = GrammarPool(vocabulary, keys, columns=self.columns)
        self.most_tokens = most_tokens
        self._capacity = rounded_slots(most_tokens)
        config = model.config
        width = config.n_kv_heads * config.d_model // config.n_heads * np.dtype(config.compute_dtype).itemsize
        small = 2 * config.n_layers * places * self._capacity * width <= _SMALL_CACHE
        self._least = self._capacity if small else rounded_slots(self._capacity // 4)
        with self.on_mesh():
            self.programs = programs(platform())
            self.decoder = Decoder.of(model)
            self._places: Places = self.programs.empty_places(self.decoder, rows=places, capacity=self._least)
        self._held: list[Ticket | None] = [None] * places
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._numbers = itertools.count()
        self._unwanted = np.zeros(places, bool)  # were cancelled since the last chunk

    def submit(self, request: Request) -> int:
        """Queues a request and returns its number. Raises UserError when it cannot be drawn."""
        if request.most_tokens > self.most_tokens:
            what = f"prompt and sample may have {request.most_tokens} tokens together, at most {self.most_tokens} fit"
            raise UserError(what, mend="shorten the prompt or lower the limits")
        start, value_left = self.start(request)
        grammar, left = self.pool.grammar(request.grammar), request.limits[0] - request.given
        if request.given and (grammar.text_stage[start] or start == grammars.INVALID or value_left < 0):
            raise UserError("what is given of the annotation is not the beginning of a well-formed one")
        least = int(grammar.distance[start])
        if least == grammars.FAR and request.grammar.begun is not None:
            raise UserError(f"the vocabulary cannot spell {request.grammar.begun[1].strip()!r}")
        if (request.given or request.config.constrain) and least > left:
            what = f"the annotation takes {least} tokens more at least, its limit leaves {left}"
            raise UserError(what, mend="raise max_annotation_tokens")
        ticket = Ticket(next(self._numbers), request, start, value_left, has_filters(request.config))
        self._waiting.append(ticket)
        return ticket.number

    def cancel(self, number: int) -> None:
        """Forgets a request; its place is free at once. Unknown and finished ones are no error."""
        self._waiting = collections.deque(ticket for ticket in self._waiting if ticket.number != number)
        for place, ticket in enumerate(self._held):
            if ticket is not None and ticket.number == number:
                self._leave(place)
                self._unwanted[place] = True

    @property
    def in_flight(self) -> int:
        return sum(ticket is not None for ticket in self._held)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def step(self, tokens: int = CHUNK, *, idle: int | None = None) -> list[tuple[int, Drawn, int]]:
        """Admits what waits and draws for all places.

        Args:
          tokens: for each place, at most; at most `CHUNK`.
          idle: it ends earlier once so many places are free and requests wait; by default a quarter.

        Returns:
          (number, what was drawn for it so far, how many tokens of that are new) of each request in flight.

        Raises:
          UserError: when the model gives no finite numbers.
        """
        with self.on_mesh():
            self._admit()
            if not self.in_flight:
                return []
            self._make_room(tokens)
            seen = self._advance(tokens, idle)
        self._unwanted[:] = False
        return self._collect(*seen)

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Drawn]]:
        """Draws for all of them; yields (place in `requests`, what was drawn) as they are finished."""
        order = {self.submit(request): place for place, request in enumerate(requests)}
        while self.in_flight or self.waiting:
            for number, drawn, _ in self.step():
                if drawn.finished:
                    yield order[number], drawn

    def on_mesh(self) -> contextlib.AbstractContextManager:
        """For calls of `programs`."""
        return jax.set_mesh(self._mesh) if self._mesh is not None else contextlib.nullcontext()

    # -- places ------------------------------------------------------------------------------------

    def start(self, request: Request) -> tuple[int, int]:
        """State and characters left of a value after what is given of the annotation."""
        # What is given may have keys that cannot be drawn: it is read by the grammar of all.
        grammar, begin = self.pool.whole, self.pool.grammar(request.grammar).start
        state, left = grammars.OPEN if request.given else begin, grammars.VALUE_BUDGET
        for token in request.tokens[len(request.tokens) - request.given :]:
            state = int(grammar.next_state[state, token])
            in_value = grammar.role[state] == Role.ANNOTATION_VALUE
            left = left - int(grammar.characters[token]) if in_value else grammars.VALUE_BUDGET
        if request.grammar.begun is not None:
            return begin, left
        return (grammar.value_end if request.value_ended and left >= 0 else state), left

    def _admit(self) -> None:
        """Puts waiting requests into free places, first come first served."""
        while self._waiting:
            free = [place for place, ticket in enumerate(self._held) if ticket is None]
            chosen: dict[int, Ticket] = {}
            prompts: dict[tuple[int, ...], int] = {}  # -> row
            bucket = prompt_slots(len(self._waiting[0].request.tokens) - 1)
            most = max(1, min(len(self._held) // 4, _PREFILL_TOKENS // bucket))
            passed: list[Ticket] = []
            while self._waiting and len(chosen) < len(free):
                ticket = self._waiting.popleft()
                prompt = ticket.request.tokens
                if prompt_slots(len(prompt) - 1) != bucket or (prompt not in prompts and len(prompts) == most):
                    passed.append(ticket)
                    continue
                base = self.pool.take(ticket.request.grammar)
                if base is None:
                    passed.append(ticket)
                    break
                ticket.base = base
                prompts.setdefault(prompt, len(prompts))
                chosen[free[len(chosen)]] = ticket
            self._waiting.extendleft(reversed(passed))
            if not chosen:
                return
            self._enter(chosen, prompts, bucket, most)

    def _enter(self, chosen: dict[int, Ticket], prompts: dict[tuple[int, ...], int], bucket: int, most: int) -> None:
        if not self.in_flight and self._slots > self._least:  # a cache that has grown slows every step down
            self._places = self.programs.empty_places(self.decoder, rows=len(self._held), capacity=self._least)
        for place, ticket in chosen.items():
            self._held[place] = ticket
            self._unwanted[place] = False
        self._make_room(0)
        rows = 1 if len(prompts) == 1 else most
        arrivals = make_arrivals(chosen, prompts, (rows, bucket), len(self._held))
        filtered = any(ticket.filtered for ticket in chosen.values())
        self._places = self.programs.admit(self.decoder, self.pool.tables, self._places, arrivals, filtered=filtered)

    def _make_room(self, tokens: int) -> None:
        """Gives the cache slots for so many more tokens of every request in flight."""
        held = [ticket for ticket in self._held if ticket is not None]
        buckets = [prompt_slots(len(ticket.request.tokens) - 1) for ticket in held]
        lengths = [
            min(len(ticket.request.tokens) + len(ticket.drawn.tokens) + tokens, ticket.request.most_tokens)
            for ticket in held
        ]
        needed = max([*buckets, *lengths])
        if needed > self._slots:
            slots = max(rounded_slots(needed), min(self._capacity, 2 * self._slots))
            self._places = self.programs.grow(self._places, slots=slots)

    def _advance(self, tokens: int, idle: int | None) -> tuple[Any, ...]:
        """What `_collect` reads, on the host."""
        quarter = max(len(self._held) // 4, 1)
        least = (quarter if idle is None else idle) if self._waiting else len(self._held)
        filtered = any(ticket is not None and ticket.filtered for ticket in self._held)
        self._places, chunk = self.programs.advance(
            self.decoder,
            self.pool.tables,
            self._places,
            ~self._unwanted,
            np.int32(min(tokens, CHUNK)),
            np.int32(least),
            filtered=filtered,
        )
        places = self._places
        return jax.device_get((chunk, places.state_B, places.active_B, places.wellformed_B, places.logprob_B2))

    @property
    def _slots(self) -> int:
        return self._places.cache[0][0].shape[2]

    def _leave(self, place: int) -> None:
        self.pool.give_back(self._held[place].base)
        self._held[place] = None

    def _collect(
        self, chunk: Any, state_B: np.ndarray, active_B: np.ndarray, wellformed_B: np.ndarray, logprob_B2: np.ndarray
    ) -> list[tuple[int, Drawn, int]]:
        counts_B = np.count_nonzero(chunk.roles_BT != Role.PAD, axis=1)
        found = []
        for place, ticket in enumerate(self._held):
            if ticket is None:
                continue
            count, drawn, state = int(counts_B[place]), ticket.drawn, int(state_B[place])
            drawn.tokens += chunk.tokens_BT[place, :count].tolist()
            drawn.roles += chunk.roles_BT[place, :count].tolist()
            drawn.logprobs += chunk.logprobs_BT[place, :count].tolist()
            drawn.stage_logprobs = (float(logprob_B2[place, 0]), float(logprob_B2[place, 1]))
            if not np.isfinite(drawn.stage_logprobs).all():
                mend = "train again with a lower learning rate"
                raise UserError("the model's probabilities are not finite: the run has diverged", mend=mend)
            grammar = self.pool.grammar(ticket.request.grammar)
            drawn.wellformed = bool(wellformed_B[place]) and bool(grammar.text_stage[state])
            drawn.finished = not active_B[place]
            drawn.ended = drawn.finished and bool(grammar.terminal[state])
            if drawn.finished:
                self._leave(place)
            found.append((ticket.number, drawn, count))
        return found


def columns_of(model: Transformer, vocabulary: Vocabulary) -> int:
    """Width of the model's head. Raises UserError when the vocabulary has more ids."""
    columns = model.head_DV.shape[-1]
    if columns < vocabulary.size:
        what = f"the vocabulary has {vocabulary.size} ids, the model's head only {columns}"
        raise UserError(what, where=str(vocabulary.path), mend="use the tokenizer of the run")
    return columns


def rounded_slots(slots: int) -> int:
    return -(-slots // _SLOTS) * _SLOTS


def prompt_slots(length: int) -> int:
    """Slots for a prompt of `length` tokens in the cache."""
    return max(_LEAST_PROMPT, 1 << max(length - 1, 0).bit_length())


_WITHOUT = SamplingConfig()


def has_filters(config: SamplingConfig) -> bool:
    return any(config.filters(name) != _WITHOUT.filters(name) for name in FILTERS)


def make_arrivals(
    chosen: dict[int, Ticket], prompts: dict[tuple[int, ...], int], shape: tuple[int, int], places: int
) -> Arrivals:
    """The arrays that `admit` takes; `shape` is (R, P)."""
    prompts_RP, length_R = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
    for tokens, row in prompts.items():
        length_R[row] = len(tokens) - 1
        prompts_RP[row, : length_R[row]] = tokens[:-1]

    def whole(dtype: Any, *width: int) -> np.ndarray:
        return np.zeros((places, *width), dtype)

    filters = Filters(whole(np.int32, 2), *(whole(np.float32, 2) for _ in range(3)))
    settings = Settings(
        whole(np.uint32), whole(np.int32), whole(np.float32, 2), whole(np.int32, 2), whole(bool), filters
    )
    arrivals = Arrivals(
        prompts_RP, length_R, np.full(places, -1, np.int32), *(whole(np.int32) for _ in range(3)),
        whole(np.int32, 2), whole(np.int32), settings,
    )  # fmt: skip
    for place, ticket in chosen.items():
        request, config = ticket.request, ticket.request.config
        arrivals.source_B[place] = prompts[request.tokens]
        arrivals.token_B[place] = request.tokens[-1]
        arrivals.base_B[place], arrivals.state_B[place] = ticket.base, ticket.start
        arrivals.value_left_B[place] = ticket.value_left
        arrivals.left_B2[place] = (request.limits[0] - request.given, request.limits[1])
        settings.seed_B[place], settings.index_B[place] = request.seed, request.index
        settings.temperature_B2[place] = (config.annotation_temperature, config.response_temperature)
        settings.limit_B2[place] = request.limits
        settings.constrained_B[place] = config.constrain
        for name, array in zip(FILTERS, filters, strict=True):
            array[place] = config.filters(name)
    return arrivals
