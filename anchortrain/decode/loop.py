"""The compiled loop of two-stage sampling: annotation, then response, without a host round trip.

Every row carries its state in the grammar's automaton; what may follow, the stage, the temperature and the
role of a token are look-ups by it. A row's sample depends on its own prompt, key and settings only.

Shapes: B batch, P prompt slots (left-padded), T new tokens at most, C = P + T cache slots, S states of the
grammar, V columns of the head. Pairs [B, 2] are (annotation, text).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchortrain.decode import grammar as grammars
from anchortrain.decode.categorical import draw
from anchortrain.decode.filters import Filters, kept, penalised
from anchortrain.decode.grammar import Grammar
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

_UNLIMITED = 1 << 30


class Tables(NamedTuple):
    """The grammar on the device; see `Grammar`."""

    next_state_SV: jax.Array
    cost_SV: jax.Array
    value_cost_SV: jax.Array | None  # None when the annotation is free
    characters_V: jax.Array
    role_S: jax.Array
    text_stage_S: jax.Array
    terminal_S: jax.Array

    @classmethod
    def of(cls, grammar: Grammar, *, constrain: bool) -> "Tables":
        return cls(
            jnp.asarray(grammar.next_state),
            jnp.asarray(grammar.cost(constrain=constrain)),
            jnp.asarray(grammar.value_cost()) if constrain else None,
            jnp.asarray(grammar.characters),
            jnp.asarray(grammar.role),
            jnp.asarray(grammar.text_stage),
            jnp.asarray(grammar.terminal),
        )


class Rows(NamedTuple):
    """What a batch starts from."""

    prompt_BP: np.ndarray  # int32, left-padded, with <bos> and the forced <ann>
    padding_B: np.ndarray  # int32, slots of padding
    key_B: jax.Array  # random keys
    state_B: np.ndarray  # int32; a terminal one makes a row idle
    temperature_B2: np.ndarray  # float32
    limit_B2: np.ndarray  # int32, most tokens to draw: in an annotation; from the first text on
    filters: Filters | None = None  # None where no row has any, which saves their time


class Drawn(NamedTuple):
    """What a batch drew. Unused columns have role PAD."""

    tokens_BT: jax.Array  # int32
    roles_BT: jax.Array  # uint8
    logprob_B2: jax.Array  # float32, sums over the tokens drawn in each stage
    state_B: jax.Array  # int32, the last state
    wellformed_B: jax.Array  # bool: no annotation was malformed, and the last is closed


class _Carry(NamedTuple):
    step: jax.Array
    cache: dict[str, jax.Array]
    token_B: jax.Array  # drawn last
    active_B: jax.Array
    left_B2: jax.Array  # tokens that may still be drawn
    value_left_B: jax.Array  # characters that the current value may still have
    seen_BV: jax.Array | None  # tokens of prompt and sample, for the penalty on repetition
    drawn: Drawn


@partial(jax.jit, static_argnames="steps")
def generate(model: Transformer, tables: Tables, rows: Rows, *, steps: int) -> Drawn:
    """Draws at most `steps` tokens for each row; stops when no row is active."""
    B, P = rows.prompt_BP.shape
    slots_C = jnp.arange(P + steps)
    key_valid_BC = slots_C >= rows.padding_B[:, None]
    cache = model.init_cache(B, P + steps)
    # The last token of the prompt is fed by the loop, like every drawn one.
    positions_BP = slots_C[: P - 1] - rows.padding_B[:, None]
    _, cache = model.extend(rows.prompt_BP[:, :-1], jnp.maximum(positions_BP, 0), cache, 0, key_valid_BC)

    def body(carry: _Carry) -> _Carry:
        slot = P - 1 + carry.step
        positions_B1 = (slot - rows.padding_B)[:, None]
        hidden_B1D, cache = model.extend(carry.token_B[:, None], positions_B1, carry.cache, slot, key_valid_BC)
        uniform_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, carry.step)))(rows.key_B)
        return _advance(tables, rows, carry._replace(cache=cache), model.logits(hidden_B1D[:, 0]), uniform_B)

    drawn = Drawn(
        tokens_BT=jnp.zeros((B, steps), jnp.int32),
        roles_BT=jnp.full((B, steps), Role.PAD, jnp.uint8),
        logprob_B2=jnp.zeros((B, 2)),
        state_B=jnp.asarray(rows.state_B),
        wellformed_B=jnp.ones(B, bool),
    )
    carry = _Carry(
        step=jnp.int32(0),
        cache=cache,
        token_B=jnp.asarray(rows.prompt_BP[:, -1]),
        active_B=~tables.terminal_S[rows.state_B],
        left_B2=jnp.asarray(rows.limit_B2),
        value_left_B=jnp.full(B, grammars.VALUE_BUDGET),
        seen_BV=None if rows.filters is None else _seen(rows, tables.characters_V.shape[0]),
        drawn=drawn,
    )
    carry = jax.lax.while_loop(lambda c: (c.step < steps) & jnp.any(c.active_B), body, carry)
    done = carry.drawn
    closed_B = tables.text_stage_S[done.state_B]
    return done._replace(wellformed_B=done.wellformed_B & closed_B)


def _seen(rows: Rows, columns: int) -> jax.Array:
    """bool [B, V]: the tokens of the prompts."""
    B, P = rows.prompt_BP.shape
    # Padding is not part of a prompt: it goes to a column of its own.
    ids_BP = jnp.where(jnp.arange(P) >= rows.padding_B[:, None], rows.prompt_BP, columns)
    return jnp.zeros((B, columns + 1), bool).at[jnp.arange(B)[:, None], ids_BP].set(True)[:, :columns]


def _remaining(tables: Tables, rows: Rows, state_B: jax.Array, left_B2: jax.Array) -> jax.Array:
    """Tokens [B] that may be drawn before the current stage must have ended."""
    # The first annotation has its own limit only; later ones of a document also use up the text's.
    first_B = left_B2[:, 1] == rows.limit_B2[:, 1]
    annotation_B = jnp.minimum(left_B2[:, 0], jnp.where(first_B, _UNLIMITED, left_B2[:, 1]))
    return jnp.where(tables.text_stage_S[state_B], left_B2[:, 1], annotation_B)


def _allowed(tables: Tables, rows: Rows, carry: _Carry) -> jax.Array:
    """bool [B, V]: the tokens that the grammar and the limits permit."""
    state_B = carry.drawn.state_B
    # Compared in bytes: this is as wide as the vocabulary.
    remaining_B = jnp.clip(_remaining(tables, rows, state_B, carry.left_B2), 0, grammars.FAR - 1).astype(jnp.uint8)
    allowed_BV = tables.cost_SV[state_B] <= remaining_B[:, None]
    if tables.value_cost_SV is not None:
        value_left_B = jnp.maximum(carry.value_left_B, 0).astype(jnp.uint8)
        allowed_BV &= tables.value_cost_SV[state_B] <= value_left_B[:, None]
    return allowed_BV


def _advance(tables: Tables, rows: Rows, carry: _Carry, logits_BV: jax.Array, uniform_B: jax.Array) -> _Carry:
    """Draws one token a row and moves every active row to its next state."""
    drawn, active_B = carry.drawn, carry.active_B
    state_B = drawn.state_B
    in_text_B = tables.text_stage_S[state_B]
    temperature_B = jnp.where(in_text_B, rows.temperature_B2[:, 1], rows.temperature_B2[:, 0])
    allowed_BV, seen_BV = _allowed(tables, rows, carry), carry.seen_BV
    if rows.filters is not None:
        filters = rows.filters.of_stage(in_text_B)
        logits_BV = penalised(logits_BV, seen_BV, filters.repetition_penalty_B2)
        allowed_BV = kept(logits_BV, allowed_BV, temperature_B, filters)
    token_B, logprob_B = draw(logits_BV, allowed_BV, temperature_B, uniform_B)
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(token_B.size), token_B].set(True)
    token_B = jnp.where(active_B, token_B, 0)

    next_B = tables.next_state_SV[state_B, token_B].astype(jnp.int32)
    is_value_B = tables.role_S[next_B] == Role.ANNOTATION_VALUE
    value_left_B = jnp.where(is_value_B, carry.value_left_B - tables.characters_V[token_B], grammars.VALUE_BUDGET)
    next_B = jnp.where(is_value_B & (value_left_B < 0), grammars.INVALID, next_B)
    next_B = jnp.where(active_B, next_B, state_B)
    role_B = jnp.where(active_B, tables.role_S[next_B], Role.PAD)

    # One token of its stage, and one of the text's if an annotation follows upon text.
    first_B = carry.left_B2[:, 1] == rows.limit_B2[:, 1]
    left_B2 = carry.left_B2 - jnp.stack([~in_text_B, in_text_B | ~first_B], axis=1)
    left_B2 = left_B2.at[:, 0].set(jnp.where(next_B == grammars.OPEN, rows.limit_B2[:, 0], left_B2[:, 0]))
    exhausted_B = _remaining(tables, rows, next_B, left_B2) <= 0

    stage_B2 = jnp.stack([~in_text_B, in_text_B], axis=1) & active_B[:, None]
    return _Carry(
        step=carry.step + 1,
        cache=carry.cache,
        token_B=token_B,
        active_B=active_B & ~tables.terminal_S[next_B] & ~exhausted_B,
        left_B2=left_B2,
        value_left_B=value_left_B,
        seen_BV=seen_BV,
        drawn=Drawn(
            tokens_BT=jax.lax.dynamic_update_slice_in_dim(drawn.tokens_BT, token_B[:, None], carry.step, axis=1),
            roles_BT=jax.lax.dynamic_update_slice_in_dim(
                drawn.roles_BT, role_B[:, None].astype(jnp.uint8), carry.step, axis=1
            ),
            logprob_B2=drawn.logprob_B2 + jnp.where(stage_B2, logprob_B[:, None], 0.0),
            state_B=next_B,
            wellformed_B=drawn.wellformed_B & (next_B != grammars.MALFORMED),
        ),
    )
