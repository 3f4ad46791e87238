"""Two-stage sampling of many prompts, and what comes back (paper, section 3, stage 4)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.engine import LEAST_PLACES, Drawn, Engine, Request
from anchortrain.decode.samples import Sample, to_row
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.tables import GrammarKey
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

_MOST_PROMPT_TOKENS = 1 << 15


class Draw(NamedTuple):
    """An annotation drawn for a prompt, as an example to anchor: `<user> prompt <assistant> ⏎⏎ <ann> … </ann>`."""

    tokens: list[int]
    roles: list[int]
    wellformed: bool
    closed: bool  # False when the limit cut it off


class _Prompt(NamedTuple):
    text: str
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
    mesh: Mesh | None = None,
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
      mesh: over which the model lies, see `Engine`.
      progress: called with the number of samples that were finished since the last call.

    Returns:
      Rows as `decode.samples.to_row` describes them, in the order of the prompts.

    Raises:
      UserError: for prompts or settings that cannot be used, and when the model gives no finite numbers.
    """
    read = _read(vocabulary, prompts, config.mode, indices)
    forced = [] if config.mode == "single_stage" else [vocabulary.ann_open]
    grammar = GrammarKey(config.mode, tuple(keys) if forced else ())
    requests = [Request(tuple(prompt.tokens + forced), grammar, config, seed, prompt.index) for prompt in read]
    rows: list[dict[str, Any]] = [{}] * len(requests)
    for place, drawn in _run(model, vocabulary, requests, keys, config, mesh):
        rows[place] = to_row(_sample(read[place], drawn, forced), vocabulary)
        progress(1)
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
    read = _read(vocabulary, [row["prompt"] for row in rows], "two_stage", indices)
    plans = [[pair for pair in zip(row["tokens"], row["roles"], strict=True) if pair[1] != Role.TEXT] for row in rows]
    requests = [
        Request(
            (*prompt.tokens, *(token for token, _ in plan)), GrammarKey("single_stage", ()), config, seed, prompt.index
        )
        for prompt, plan in zip(read, plans, strict=True)
    ]
    made: list[dict[str, Any]] = [{}] * len(rows)
    for place, drawn in _run(model, vocabulary, requests, (), config):
        response, plan = _sample(read[place], drawn, []), plans[place]
        whole = response._replace(
            tokens=[token for token, _ in plan] + response.tokens,
            roles=[role for _, role in plan] + response.roles,
            wellformed=True,
            annotation_logprob=rows[place]["annotation_logprob"],
        )
        made[place] = to_row(whole, vocabulary)
        progress(1)
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
    read = _read(vocabulary, prompts, "two_stage", None)
    grammar = GrammarKey("annotation", tuple(keys))
    requests = [Request((*prompt.tokens, vocabulary.ann_open), grammar, config, seed, prompt.index) for prompt in read]
    draws: list[Draw] = [Draw([], [], False, False)] * len(requests)
    for place, drawn in _run(model, vocabulary, requests, keys, config):
        prompt = read[place].tokens[1:]
        draws[place] = Draw(
            tokens=[*prompt, vocabulary.ann_open, *drawn.tokens],
            roles=[int(Role.PROMPT)] * len(prompt) + [int(Role.ANNOTATION_KEY)] + drawn.roles,
            wellformed=drawn.wellformed,
            closed=drawn.ended,
        )
        progress(1)
    return draws


def _run(
    model: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[Request],
    keys: Sequence[str],
    config: SamplingConfig,
    mesh: Mesh | None = None,
) -> Iterator[tuple[int, Drawn]]:
    """(place in `requests`, what was drawn), as they are finished."""
    if not 0 <= requests[0].seed < 1 << 32:
        raise UserError(f"the seed must lie in 0..{(1 << 32) - 1}, got {requests[0].seed}")
    # Few requests need no large batch; the size is one of few.
    fitting = max(LEAST_PLACES, 1 << (len(requests) - 1).bit_length())
    places = 1 if len(requests) == 1 else min(config.batch_size, fitting)
    most = max(request.most_tokens for request in requests)
    yield from Engine(model, vocabulary, keys, places=places, most_tokens=most, mesh=mesh).run(requests)


def _sample(prompt: _Prompt, drawn: Drawn, forced: list[int]) -> Sample:
    """The forced opening delimiter is part of a sample: left to itself a model hardly ever writes one."""
    return Sample(
        prompt=prompt.text,
        index=prompt.index,
        tokens=forced + drawn.tokens,
        roles=[int(Role.ANNOTATION_KEY)] * len(forced) + drawn.roles,
        wellformed=bool(forced) and drawn.wellformed,
        finished=drawn.ended and drawn.roles[-1] == Role.TEXT,
        annotation_logprob=drawn.stage_logprobs[0],
        response_logprob=drawn.stage_logprobs[1],
    )


def _read(vocabulary: Vocabulary, prompts: Sequence[str], mode: str, indices: Sequence[int] | None) -> list[_Prompt]:
    """The prompts in tokens. Raises UserError for those that cannot be used."""
    if not prompts:
        raise UserError("there is nothing to sample", mend="give at least one prompt")
    indices = range(len(prompts)) if indices is None else indices
    read, end = [], vocabulary.encode(PROMPT_END)
    for index, prompt, tokens in zip(indices, prompts, vocabulary.encode_batch(prompts), strict=True):
        where = f"prompt {prompt[:30]!r}"
        if mode == "document":
            if prompt:
                raise UserError("a document is sampled without a prompt", where=where, mend="choose another mode")
            read.append(_Prompt("", index, [vocabulary.bos]))
            continue
        ids = [vocabulary.bos, vocabulary.user, *tokens, vocabulary.assistant, *end]
        if len(ids) >= _MOST_PROMPT_TOKENS:
            what = f"the prompt has {len(tokens)} tokens, at most {_MOST_PROMPT_TOKENS - 4 - len(end)} are possible"
            raise UserError(what, where=where, mend="shorten it")
        read.append(_Prompt(prompt, index, ids))
    return read
