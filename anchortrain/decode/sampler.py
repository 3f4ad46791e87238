"""Two-stage sampling of many prompts: batches, buckets and what comes back (paper, section 3, stage 4).

Shapes: B batch, P prompt slots, T new tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode import grammar as grammars
from anchortrain.decode.filters import Filters
from anchortrain.decode.grammar import Grammar, compile_grammar
from anchortrain.decode.loop import Drawn, Rows, Tables, generate
from anchortrain.decode.samples import Sample, to_row
from anchortrain.decode.settings import FILTERS, SamplingConfig
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

# Prompts are padded to the next of these lengths, so that few shapes are ever compiled.
_BUCKETS = (8, 32, *(64 << i for i in range(10)))


class Draw(NamedTuple):
    """An annotation drawn for a prompt, as an example to anchor: `<user> prompt <assistant> ⏎⏎ <ann> … </ann>`."""

    tokens: list[int]
    roles: list[int]
    wellformed: bool
    closed: bool  # False when the limit cut it off


class _Request(NamedTuple):
    prompt: str
    index: int
    tokens: list[int]  # with <bos>, without the forced <ann>


def sample(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    seed: int = 0,
    indices: Sequence[int] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Samples once for each prompt.

    A sample is a function of the parameters, its prompt, its index, the seed and the configuration; not of the
    other prompts, their order or the batch size. Its log-probabilities are those of the distribution that was
    drawn from: at the stage's temperature and among the permitted tokens (at temperature 0, those of
    temperature 1). An annotation that does not close within its limit ends the sample: it is not
    well-formed, the response is empty, `finished` is false.

    Args:
      prompts: what the user says. In mode "document" all empty: the model begins with `<bos>`.
      keys: the schema, as counted when the training data was prepared.
      indices: of the samples; by default 0, 1, 2 …
      progress: called after each batch with the number of samples in it.

    Returns:
      Rows as `decode.samples.to_row` describes them, in the order of the prompts.

    Raises:
      UserError: for prompts or settings that cannot be used, and when the model gives no finite numbers.
    """
    requests = _requests(vocabulary, prompts, config.mode, indices)
    grammar = compile_grammar(vocabulary, keys, mode=config.mode, columns=_columns(model, vocabulary))
    steps = config.max_response_tokens + config.max_annotation_tokens * (config.mode != "single_stage")
    rows: list[dict[str, Any]] = [{}] * len(requests)
    for chosen, drawn in _batches(model, vocabulary, requests, grammar, config, seed, steps):
        for row, place in enumerate(chosen):
            rows[place] = to_row(_sample(requests[place], drawn, row, _forced(vocabulary, grammar)), vocabulary)
        progress(len(chosen))
    return rows


def resample_responses(
    model: Transformer,
    vocabulary: Vocabulary,
    rows: Sequence[dict[str, Any]],
    config: SamplingConfig,
    *,
    indices: Sequence[int],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Another response to the prompt and annotation of each sample: the second stage of `sample` alone.

    Args:
      rows: samples that `sample` made in mode "two_stage", with well-formed annotations.
      indices: of the new samples; with the seed they decide what is drawn.

    Returns:
      Rows like those given, each with its new index and response. Raises UserError like `sample`.
    """
    requests = _requests(vocabulary, [row["prompt"] for row in rows], "two_stage", indices)
    plans = [[pair for pair in zip(row["tokens"], row["roles"], strict=True) if pair[1] != Role.TEXT] for row in rows]
    given = [
        request._replace(tokens=[*request.tokens, *(token for token, _ in plan)])
        for request, plan in zip(requests, plans, strict=True)
    ]
    grammar = compile_grammar(vocabulary, (), mode="single_stage", columns=_columns(model, vocabulary))
    made: list[dict[str, Any]] = [{}] * len(rows)
    for chosen, drawn in _batches(model, vocabulary, given, grammar, config, seed, config.max_response_tokens):
        for row, place in enumerate(chosen):
            response, plan = _sample(requests[place], drawn, row, []), plans[place]
            whole = response._replace(
                tokens=[token for token, _ in plan] + response.tokens,
                roles=[role for _, role in plan] + response.roles,
                wellformed=True,
                annotation_logprob=rows[place]["annotation_logprob"],
            )
            made[place] = to_row(whole, vocabulary)
        progress(len(chosen))
    return made


def draw_annotations(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Draw]:
    """Draws one annotation for each prompt and stops there: reference draws for the KL anchor.

    The same as the first stage of `sample` with the same seed; `config.mode` and what it says of the
    response are not used. Raises UserError like `sample`.
    """
    requests = _requests(vocabulary, prompts, "two_stage", None)
    grammar = compile_grammar(vocabulary, keys, mode="annotation", columns=_columns(model, vocabulary))
    draws: list[Draw] = [Draw([], [], False, False)] * len(requests)
    for chosen, drawn in _batches(model, vocabulary, requests, grammar, config, seed, config.max_annotation_tokens):
        for row, place in enumerate(chosen):
            tokens, roles = _drawn_tokens(drawn, row)
            prompt = requests[place].tokens[1:]
            draws[place] = Draw(
                tokens=[*prompt, vocabulary.ann_open, *tokens],
                roles=[int(Role.PROMPT)] * len(prompt) + [int(Role.ANNOTATION_KEY)] + roles,
                wellformed=bool(drawn.wellformed_B[row]),
                closed=bool(grammar.terminal[drawn.state_B[row]]),
            )
        progress(len(chosen))
    return draws


def _forced(vocabulary: Vocabulary, grammar: Grammar) -> list[int]:
    """The opening delimiter: left to itself a model hardly ever writes one."""
    return [vocabulary.ann_open] if grammar.start == grammars.OPEN else []


def _sample(request: _Request, drawn: Drawn, row: int, forced: list[int]) -> Sample:
    tokens, roles = _drawn_tokens(drawn, row)
    return Sample(
        prompt=request.prompt,
        index=request.index,
        tokens=forced + tokens,
        roles=[int(Role.ANNOTATION_KEY)] * len(forced) + roles,
        wellformed=bool(forced) and bool(drawn.wellformed_B[row]),
        finished=int(drawn.state_B[row]) == grammars.END,
        annotation_logprob=float(drawn.logprob_B2[row, 0]),
        response_logprob=float(drawn.logprob_B2[row, 1]),
    )


def _columns(model: Transformer, vocabulary: Vocabulary) -> int:
    columns = model.head_DV.shape[-1]
    if columns < vocabulary.size:
        what = f"the vocabulary has {vocabulary.size} ids, the model's head only {columns}"
        raise UserError(what, where=str(vocabulary.path), mend="use the tokenizer of the run")
    return columns


def _requests(
    vocabulary: Vocabulary, prompts: Sequence[str], mode: str, indices: Sequence[int] | None
) -> list[_Request]:
    """The prompts in tokens. Raises UserError for those that cannot be used."""
    if not prompts:
        raise UserError("there is nothing to sample", mend="give at least one prompt")
    indices = range(len(prompts)) if indices is None else indices
    requests, end = [], vocabulary.encode(PROMPT_END)
    for index, prompt, tokens in zip(indices, prompts, vocabulary.encode_batch(prompts), strict=True):
        where = f"prompt {prompt[:30]!r}"
        if mode == "document":
            if prompt:
                raise UserError("a document is sampled without a prompt", where=where, mend="choose another mode")
            requests.append(_Request("", index, [vocabulary.bos]))
            continue
        ids = [vocabulary.bos, vocabulary.user, *tokens, vocabulary.assistant, *end]
        if len(ids) >= _BUCKETS[-1]:
            what = f"the prompt has {len(tokens)} tokens, at most {_BUCKETS[-1] - 4 - len(end)} are possible"
            raise UserError(what, where=where, mend="shorten it")
        requests.append(_Request(prompt, index, ids))
    return requests


def _drawn_tokens(drawn: Drawn, row: int) -> tuple[list[int], list[int]]:
    roles = np.asarray(drawn.roles_BT[row])
    length = int(np.count_nonzero(roles != Role.PAD))
    return drawn.tokens_BT[row, :length].tolist(), roles[:length].tolist()


def _batches(
    model: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[_Request],
    grammar: Grammar,
    config: SamplingConfig,
    seed: int,
    steps: int,
) -> Iterator[tuple[list[int], Drawn]]:
    """Places of the requests in each batch, and what was drawn for them, as numpy arrays."""
    if not 0 <= seed < 1 << 32:
        raise UserError(f"the seed must lie in 0..{(1 << 32) - 1}, got {seed}")
    tables = Tables.of(grammar, constrain=config.constrain)
    forced = _forced(vocabulary, grammar)
    buckets: dict[int, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        length = len(request.tokens) + len(forced)
        buckets[next(size for size in _BUCKETS if size >= length)].append(place)
    # Few requests need no large batch; the size is one of few.
    size = min(config.batch_size, 1 << max(len(requests) - 1, 0).bit_length())
    for bucket, places in sorted(buckets.items()):
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            rows = _rows([requests[place] for place in chosen], forced, grammar, config, seed, (size, bucket))
            drawn = jax.device_get(generate(model, tables, rows, steps=steps))
            if not np.isfinite(drawn.logprob_B2[: len(chosen)]).all():
                mend = "train again with a lower learning rate"
                raise UserError("the model's probabilities are not finite: the run has diverged", mend=mend)
            yield chosen, drawn


def _rows(
    requests: Sequence[_Request],
    forced: list[int],
    grammar: Grammar,
    config: SamplingConfig,
    seed: int,
    shape: tuple[int, int],
) -> Rows:
    """The arrays of one batch of `shape` (B, P); rows beyond the requests are idle."""
    B, P = shape
    prompt_BP = np.zeros(shape, np.int32)
    padding_B = np.full(B, P - 1, np.int32)
    state_B = np.full(B, grammars.FORBIDDEN, np.int32)
    index_B = np.zeros(B, np.int32)
    for row, request in enumerate(requests):
        tokens = request.tokens + forced
        padding_B[row] = P - len(tokens)
        prompt_BP[row, padding_B[row] :] = tokens
        state_B[row], index_B[row] = grammar.start, request.index
    return Rows(
        prompt_BP=prompt_BP,
        padding_B=padding_B,
        key_B=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index_B),
        state_B=state_B,
        temperature_B2=np.tile(np.float32([config.annotation_temperature, config.response_temperature]), (B, 1)),
        limit_B2=np.tile(np.int32([config.max_annotation_tokens, config.max_response_tokens]), (B, 1)),
        filters=_filters(config, B),
    )


def _filters(config: SamplingConfig, batch: int) -> Filters | None:
    """The same for every row; None where they would keep everything."""
    without = SamplingConfig()
    if all(config.filters(name) == without.filters(name) for name in FILTERS):
        return None

    def pairs(name: str, dtype: type) -> np.ndarray:
        return np.tile(np.asarray(config.filters(name), dtype), (batch, 1))

    return Filters(
        top_k_B2=pairs("top_k", np.int32),
        top_p_B2=pairs("top_p", np.float32),
        min_p_B2=pairs("min_p", np.float32),
        repetition_penalty_B2=pairs("repetition_penalty", np.float32),
    )
