"""The compiled programs of decoding: prompts are admitted to places of a batch, and all places advance token by token.

A place holds one request: its state in the grammar's automaton, its cache, its settings for each stage and its random
key. What may follow, the stage, the temperature and the role of a token are look-ups by the state. What a place draws
depends on its own request only.

Shapes: B places, R prompts, P tokens of a prompt, T tokens of a chunk, S cache slots, J classes of tokens, V columns of
the head. Pairs [B, 2] are (annotation, text).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anchortrain.decode import grammar as grammars
from anchortrain.decode.categorical import draw
from anchortrain.decode.decoder import Cache, Decoder
from anchortrain.decode.filters import Filters, kept, penalised
from anchortrain.decode.tables import Tables
from anchortrain.roles import Role
from anchortrain.sharding import constrain

CHUNK = 32  # most tokens that `advance` draws for a place
_UNLIMITED = 1 << 30


class Settings(NamedTuple):
    """Of the request in each place."""

    seed_B: jax.Array  # uint32
    index_B: jax.Array  # int32; seed and index are all that what is drawn depends on, beside the distributions
    temperature_B2: jax.Array  # float32
    limit_B2: jax.Array  # int32, most tokens to draw: in an annotation; from the first text on
    constrained_B: jax.Array  # bool: the annotation is drawn among well-formed ones
    filters: Filters


class Places(NamedTuple):
    """The batch. An idle place is not active."""

    cache: Cache
    token_B: jax.Array  # int32, the last one, not yet in the cache
    position_B: jax.Array  # int32, its slot
    drawn_B: jax.Array  # int32, tokens drawn so far
    base_B: jax.Array  # int32, first row of its grammar in the tables
    state_B: jax.Array  # int32, in its grammar
    active_B: jax.Array  # bool
    left_B2: jax.Array  # int32, tokens that may still be drawn
    value_left_B: jax.Array  # int32, characters that the current value may still have
    wellformed_B: jax.Array  # bool: no annotation was malformed, and the last is closed
    logprob_B2: jax.Array  # float32, sums over the tokens drawn in each stage
    seen_BV: jax.Array  # bool: tokens of prompt and sample; kept where a request penalises repetition
    settings: Settings


class Arrivals(NamedTuple):
    """Requests that come in, [B] each: those of place b are at b, where `source_B` is not negative."""

    prompts_RP: jax.Array  # int32, each without its last token, padded at the right
    length_R: jax.Array  # int32
    source_B: jax.Array  # int32, row of the prompt; -1: the place keeps what it has
    token_B: jax.Array  # int32, the last token of the prompt
    base_B: jax.Array
    state_B: jax.Array
    left_B2: jax.Array  # smaller than the limits where an annotation has begun
    value_left_B: jax.Array
    settings: Settings


class Chunk(NamedTuple):
    """What was drawn; unused columns have role PAD."""

    tokens_BT: jax.Array  # int32
    roles_BT: jax.Array  # uint8
    logprobs_BT: jax.Array  # float32, of each token in the distribution that it was drawn from


def empty_places(decoder: Decoder, *, rows: int, capacity: int) -> Places:
    """Idle places with a cache of so many slots."""

    def zeros(dtype: jnp.dtype, *width: int) -> jax.Array:
        return jnp.zeros((rows, *width), dtype)

    number, pair = partial(zeros, jnp.int32), partial(zeros, jnp.float32, 2)
    filters = Filters(number(2), pair(), pair(), pair())
    places = Places(
        cache=decoder.new_cache(rows, capacity),
        token_B=number(),
        position_B=number(),
        drawn_B=number(),
        base_B=number(),
        state_B=number(),
        active_B=zeros(bool),
        left_B2=number(2),
        value_left_B=number(),
        wellformed_B=zeros(bool),
        logprob_B2=pair(),
        seen_BV=zeros(bool, decoder.head_DV.shape[1]),
        settings=Settings(zeros(jnp.uint32), number(), pair(), number(2), zeros(bool), filters),
    )
    return map_axes(places, constrain)


def map_axes(places: Places, function: Callable[[Any, tuple[str | None, ...]], Any]) -> Places:
    """The same with `function(array, its logical axes)` for each array."""

    def mapped(x: Any) -> Any:
        return function(x, ("batch", "heads", None, None) if x.ndim == 4 else ("batch", *[None] * (x.ndim - 1)))

    return jax.tree.map(mapped, places)


def grow(places: Places, *, slots: int) -> Places:
    """The same places with a cache of more slots."""

    def grown(x_BKSC: jax.Array) -> jax.Array:
        return jnp.pad(x_BKSC, ((0, 0), (0, 0), (0, slots - x_BKSC.shape[2]), (0, 0)))

    return map_axes(places._replace(cache=jax.tree.map(grown, places.cache)), constrain)


def admit(decoder: Decoder, tables: Tables, places: Places, arrivals: Arrivals, *, filtered: bool) -> Places:
    """Puts requests into places. Those that share a prompt share the pass over it.

    Args:
      filtered: whether a request that comes in has filters, see `advance`.
    """
    P, source_B = arrivals.prompts_RP.shape[1], jnp.maximum(arrivals.source_B, 0)
    comes_B = arrivals.source_B >= 0

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(comes_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def filled(old_BKSC: jax.Array, new_RKPC: jax.Array) -> jax.Array:
        first_BKPC = chosen(new_RKPC[source_B], old_BKSC[:, :, :P])
        return jax.lax.dynamic_update_slice(old_BKSC, first_BKPC, (0, 0, 0, 0))

    rows = comes_B.shape[0]
    seen_BV = places.seen_BV
    if filtered:
        seen_BV = chosen(_seen(arrivals, seen_BV.shape[1])[source_B], seen_BV)
        seen_BV = seen_BV.at[jnp.arange(rows), arrivals.token_B].max(comes_B)
    terminal_B = tables.terminal_N[arrivals.base_B + arrivals.state_B]
    new = Places(
        cache=(),
        token_B=arrivals.token_B,
        position_B=arrivals.length_R[source_B],
        drawn_B=jnp.zeros(rows, jnp.int32),
        base_B=arrivals.base_B,
        state_B=arrivals.state_B,
        active_B=~terminal_B,
        left_B2=arrivals.left_B2,
        value_left_B=arrivals.value_left_B,
        wellformed_B=jnp.ones(rows, bool),
        logprob_B2=jnp.zeros((rows, 2)),
        seen_BV=seen_BV,
        settings=arrivals.settings,
    )
    new = jax.tree.map(chosen, new, places._replace(cache=()))
    new = new._replace(cache=jax.tree.map(filled, places.cache, decoder.prefill(arrivals.prompts_RP)))
    return map_axes(new, constrain)


def _seen(arrivals: Arrivals, columns: int) -> jax.Array:
    """bool [R, V]: the tokens of the prompts, but for the last ones."""
    R, P = arrivals.prompts_RP.shape
    # Padding is not part of a prompt: it goes to a column of its own.
    ids_RP = jnp.where(jnp.arange(P) < arrivals.length_R[:, None], arrivals.prompts_RP, columns)
    return jnp.zeros((R, columns + 1), bool).at[jnp.arange(R)[:, None], ids_RP].set(True)[:, :columns]


def advance(
    decoder: Decoder,
    tables: Tables,
    places: Places,
    wanted_B: jax.Array,
    steps: jax.Array,
    idle: jax.Array,
    *,
    filtered: bool,
) -> tuple[Places, Chunk]:
    """Draws tokens for all active places, without a host round trip.

    Args:
      wanted_B: bool; places where it is false become idle.
      steps: how many tokens, at most `CHUNK`.
      idle: it stops earlier once so many places have become idle.
      filtered: whether an active request has top-k, top-p, min-p or a penalty; the program without is faster.
    """
    rows = places.token_B.shape[0]
    places = places._replace(active_B=places.active_B & wanted_B)
    begun = jnp.sum(places.active_B)
    settings = places.settings
    key_B = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(
        settings.seed_B, settings.index_B
    )

    def body(carry: tuple[jax.Array, Places, Chunk]) -> tuple[jax.Array, Places, Chunk]:
        step, places, chunk = carry
        logits_BV, cache = decoder.step(places.token_B, places.position_B, places.cache)
        uniform_B = jax.vmap(lambda key, drawn: jax.random.uniform(jax.random.fold_in(key, drawn)))(
            key_B, places.drawn_B
        )
        drew_B = places.active_B
        places = places._replace(cache=cache)
        token_B, logprob_B = draw(*choose(tables, places, logits_BV, filtered=filtered), uniform_B)
        places = move(tables, places, token_B, logprob_B, filtered=filtered)
        role_B = jnp.where(drew_B, tables.role_N[places.base_B + places.state_B], Role.PAD)

        def put(array_BT: jax.Array, new_B: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(array_BT, new_B[:, None].astype(array_BT.dtype), step, axis=1)

        drawn = (jnp.where(drew_B, places.token_B, 0), role_B, logprob_B)
        return step + 1, places, Chunk(*(put(*pair) for pair in zip(chunk, drawn, strict=True)))

    def goes_on(carry: tuple[jax.Array, Places, Chunk]) -> jax.Array:
        active = jnp.sum(carry[1].active_B)
        return (carry[0] < steps) & (active > 0) & (begun - active < idle)

    chunk = Chunk(
        jnp.zeros((rows, CHUNK), jnp.int32),
        jnp.full((rows, CHUNK), Role.PAD, jnp.uint8),
        jnp.zeros((rows, CHUNK)),
    )
    _, places, chunk = jax.lax.while_loop(goes_on, body, (jnp.int32(0), places, chunk))
    return map_axes(places, constrain), chunk


def _remaining(in_text_B: jax.Array, left_B2: jax.Array, limit_B2: jax.Array) -> jax.Array:
    """Tokens [B] that may be drawn before the current stage must have ended."""
    # The first annotation has its own limit only; later ones of a document also use up the text's.
    first_B = left_B2[:, 1] == limit_B2[:, 1]
    annotation_B = jnp.minimum(left_B2[:, 0], jnp.where(first_B, _UNLIMITED, left_B2[:, 1]))
    return jnp.where(in_text_B, left_B2[:, 1], annotation_B)


def _allowed(tables: Tables, places: Places, row_B: jax.Array, in_text_B: jax.Array) -> jax.Array:
    """bool [B, V]: the tokens that the grammar and the limits permit."""
    settings = places.settings
    constrained_B1 = settings.constrained_B[:, None]
    remaining_B = _remaining(in_text_B, places.left_B2, settings.limit_B2)
    remaining_B = jnp.clip(remaining_B, 0, grammars.FAR - 1).astype(jnp.uint8)
    cost_BJ = jnp.where(constrained_B1, tables.cost_NJ[row_B], tables.free_cost_NJ[row_B])
    value_left_B = jnp.maximum(places.value_left_B, 0).astype(jnp.uint8)
    short_BJ = ~constrained_B1 | (tables.value_cost_NJ[row_B] <= value_left_B[:, None])
    return ((cost_BJ <= remaining_B[:, None]) & short_BJ)[:, tables.class_V]


class Choice(NamedTuple):
    """What the next token is drawn from."""

    logits_BV: jax.Array  # float32, before the temperature
    allowed_BV: jax.Array  # bool
    temperature_B: jax.Array


def choose(tables: Tables, places: Places, logits_BV: jax.Array, *, filtered: bool) -> Choice:
    """What every place may draw, by its grammar, limits and filters."""
    settings, row_B = places.settings, places.base_B + places.state_B
    in_text_B = tables.text_stage_N[row_B]
    temperature_B = jnp.where(in_text_B, settings.temperature_B2[:, 1], settings.temperature_B2[:, 0])
    allowed_BV = _allowed(tables, places, row_B, in_text_B)
    if filtered:
        filters = settings.filters.of_stage(in_text_B)
        logits_BV = penalised(logits_BV, places.seen_BV, filters.repetition_penalty_B2)
        allowed_BV = kept(logits_BV, allowed_BV, temperature_B, filters)
    return Choice(logits_BV, allowed_BV, temperature_B)


def move(tables: Tables, places: Places, token_B: jax.Array, logprob_B: jax.Array, *, filtered: bool) -> Places:
    """The places after every active one has drawn its token; the cache is not touched."""
    settings, active_B, state_B, seen_BV = places.settings, places.active_B, places.state_B, places.seen_BV
    row_B = places.base_B + state_B
    in_text_B = tables.text_stage_N[row_B]
    if filtered:
        seen_BV = seen_BV.at[jnp.arange(token_B.size), token_B].max(active_B)
    token_B = jnp.where(active_B, token_B, places.token_B)

    next_B = tables.next_state_NJ[row_B, tables.class_V[token_B]].astype(jnp.int32)
    is_value_B = tables.role_N[places.base_B + next_B] == Role.ANNOTATION_VALUE
    value_left_B = jnp.where(is_value_B, places.value_left_B - tables.characters_V[token_B], grammars.VALUE_BUDGET)
    next_B = jnp.where(is_value_B & (value_left_B < 0), grammars.INVALID, next_B)
    next_B = jnp.where(active_B, next_B, state_B)
    next_row_B = places.base_B + next_B

    # One token of its stage, and one of the text's if an annotation follows upon text.
    limit_B2 = settings.limit_B2
    first_B = places.left_B2[:, 1] == limit_B2[:, 1]
    left_B2 = places.left_B2 - jnp.stack([~in_text_B, in_text_B | ~first_B], axis=1)
    left_B2 = left_B2.at[:, 0].set(jnp.where(next_B == grammars.OPEN, limit_B2[:, 0], left_B2[:, 0]))
    exhausted_B = _remaining(tables.text_stage_N[next_row_B], left_B2, limit_B2) <= 0

    stage_B2 = jnp.stack([~in_text_B, in_text_B], axis=1) & active_B[:, None]
    return places._replace(
        token_B=token_B,
        position_B=places.position_B + active_B,
        drawn_B=places.drawn_B + active_B,
        state_B=next_B,
        active_B=active_B & ~tables.terminal_N[next_row_B] & ~exhausted_B,
        left_B2=left_B2,
        value_left_B=value_left_B,
        wellformed_B=places.wellformed_B & (next_B != grammars.MALFORMED),
        logprob_B2=places.logprob_B2 + jnp.where(stage_B2, logprob_B[:, None], 0.0),
        seen_BV=seen_BV,
    )


class Programs(NamedTuple):
    """The functions of this module, compiled when they are first called with a shape."""

    empty_places: Any
    grow: Any
    admit: Any
    advance: Any
    options: dict[str, str]  # of the compiler


@cache
def programs(platform: str) -> Programs:
    """Of devices of a platform, such as "cpu". `admit` and `advance` use the batch that they are given up."""
    jit = partial(jax.jit, compiler_options=_options(platform))
    return Programs(
        jit(empty_places, static_argnames=("rows", "capacity")),
        jit(grow, static_argnames="slots"),  # of another size, so that nothing can stay in place
        jit(admit, static_argnames="filtered", donate_argnames="places"),
        jit(advance, static_argnames="filtered", donate_argnames="places"),
        _options(platform),
    )


@cache
def _options(platform: str) -> dict[str, str]:
    """Options of the programs that decode, for devices of this platform; none where XLA has not got them any more."""
    if platform != "cpu":
        return {}
    # Library calls for a handful of rows cost more than they save: a step of 32 rows is 1.35x faster without. (A
    # training step is 1.1x slower without.)
    wanted = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        with jax.default_device(jax.devices("cpu")[0]):
            jax.jit(lambda x: x + 1, compiler_options=wanted).lower(0.0).compile()
    except (ValueError, RuntimeError):
        return {}
    return wanted
