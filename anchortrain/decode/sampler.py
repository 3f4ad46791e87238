"""Two-stage sampling of many prompts, and what comes back (paper, section 3, stage 4)."""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from jax.sharding import Mesh

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.engine import LEAST_PLACES, Drawn, Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.prompts import encode_conversations
from anchortrain.decode.samples import Sample, to_row
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import UNSTEERED, Steering
from anchortrain.decode.stream import Sampler
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role


class Draw(NamedTuple):
    """An annotation drawn for a prompt, as an example to anchor: `<user> prompt <assistant> ⏎⏎ <ann> … </ann>`."""

    tokens: list[int]
    roles: list[int]
    wellformed: bool
    closed: bool  # False when the limit cut it off


def sample(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    seed: int = 0,
    indices: Sequence[int] | None = None,
    steering: Steering = UNSTEERED,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Samples once for each prompt.

    A sample is a function of the parameters, its prompt, its index, the seed, the configuration and the steering; not
    of the other prompts, their order or the batch size. Its log-probabilities are those of the distribution that was
    drawn from: at the stage's temperature and among the permitted tokens (at temperature 0, those of
    temperature 1); what was given counts nothing. An annotation that does not close within its limit ends the sample:
    it is not well-formed, the response is empty, `finished` is false.

    Args:
      prompts: what the user says. In mode "document" all empty: the model begins with `<bos>`.
      keys: the schema, as counted when the training data was prepared.
      indices: of the samples; by default 0, 1, 2 …
      steering: what is decided of the plans.
      mesh: over which the model lies, see `Engine`.
      progress: called with the number of samples that were finished since the last call.

    Returns:
      Rows as `decode.samples.to_row` describes them, in the order of the prompts.

    Raises:
      UserError: for prompts or settings that cannot be used, when forbidden tags cannot be avoided, and when the model
        gives no finite numbers.
    """
    rows: list[dict[str, Any]] = [{}] * len(prompts)
    options = {"keys": keys, "seed": seed, "indices": indices, "steering": steering, "mesh": mesh}
    for place, row in stream(model, vocabulary, prompts, config, **options):
        rows[place] = row
        progress(1)
    return rows


def stream(
    model: Transformer,
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    seed: int = 0,
    indices: Sequence[int] | None = None,
    steering: Steering = UNSTEERED,
    mesh: Mesh | None = None,
    refused: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `sample`: (place in `prompts`, row), each as it is finished.

    Args:
      refused: called with the place of a sample for which no plan without forbidden tags was found, and why; the others
        are drawn. By default UserError is raised.
    """
    read = _read(vocabulary, prompts, config.mode)
    numbered = range(len(prompts)) if indices is None else indices
    if len(numbered) != len(prompts) or not all(isinstance(one, Integral) and 0 <= one < 1 << 31 for one in numbered):
        raise UserError(f"indices must be {len(prompts)} whole numbers from 0 on, one for each prompt")
    most = max(map(len, read)) + (config.mode != "single_stage") * (1 + config.max_annotation_tokens)
    most += config.max_response_tokens
    places = _places(len(prompts), config)
    sampler = Sampler(model, vocabulary, keys, places=places, most_tokens=most, mesh=mesh)
    order = {
        sampler.submit(tokens, config, seed=seed, index=index, steering=steering): place
        for place, (tokens, index) in enumerate(zip(read, numbered, strict=True))
    }
    for update in sampler.run():
        place = order[update.number]
        if update.refusal:
            if refused is None:
                raise UserError(update.refusal)
            refused(place, update.refusal)
            continue
        yield place, to_row(update.sample._replace(prompt=prompts[place]), vocabulary)


def resample_responses(
    model: Transformer,
    vocabulary: Vocabulary,
    rows: Sequence[dict[str, Any]],
    config: SamplingConfig,
    *,
    indices: Sequence[int],
    seed: int = 0,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Another response to the prompt and annotation of each sample: the second stage of `sample` alone.

    Args:
      rows: samples that `sample` made in mode "two_stage", with well-formed annotations.
      indices: of the new samples; with the seed they decide what is drawn.

    Returns:
      Rows like those given, each with its new index and response. Raises UserError like `sample`.
    """
    read = _read(vocabulary, [row["prompt"] for row in rows], "two_stage")
    plans = [[pair for pair in zip(row["tokens"], row["roles"], strict=True) if pair[1] != Role.TEXT] for row in rows]
    grammar = GrammarKey("single_stage", ())
    requests = [
        Request((*prompt, *(token for token, _ in plan)), grammar, config, seed, index)
        for prompt, plan, index in zip(read, plans, indices, strict=True)
    ]
    made: list[dict[str, Any]] = [{}] * len(rows)
    for place, drawn in run(model, vocabulary, requests, (), config, mesh):
        row, plan = rows[place], plans[place]
        whole = Sample(
            prompt=row["prompt"],
            index=indices[place],
            tokens=[token for token, _ in plan] + drawn.tokens,
            roles=[role for _, role in plan] + drawn.roles,
            wellformed=True,
            finished=drawn.ended,
            annotation_logprob=row["annotation_logprob"],
            response_logprob=drawn.stage_logprobs[1],
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
    read = _read(vocabulary, prompts, "two_stage")
    grammar = GrammarKey("annotation", tuple(keys))
    requests = [Request((*prompt, vocabulary.ann_open), grammar, config, seed, i) for i, prompt in enumerate(read)]
    draws: list[Draw] = [Draw([], [], False, False)] * len(requests)
    for place, drawn in run(model, vocabulary, requests, keys, config):
        prompt = read[place][1:]
        draws[place] = Draw(
            tokens=[*prompt, vocabulary.ann_open, *drawn.tokens],
            roles=[int(Role.PROMPT)] * len(prompt) + [int(Role.ANNOTATION_KEY)] + drawn.roles,
            wellformed=drawn.wellformed,
            closed=drawn.ended,
        )
        progress(1)
    return draws


def run(
    model: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[Request],
    keys: Sequence[str],
    config: SamplingConfig,
    mesh: Mesh | None = None,
) -> Iterator[tuple[int, Drawn]]:
    """(place in `requests`, what was drawn), as they are finished. Raises UserError like `Engine`."""
    most = max(request.most_tokens for request in requests)
    places = _places(len(requests), config)
    yield from Engine(model, vocabulary, keys, places=places, most_tokens=most, mesh=mesh).run(requests)


def _places(requests: int, config: SamplingConfig) -> int:
    # Few requests need no large batch; the size is one of few.
    fitting = max(LEAST_PLACES, 1 << (requests - 1).bit_length())
    return 1 if requests == 1 else min(config.batch_size, fitting)


def _read(vocabulary: Vocabulary, prompts: Sequence[str], mode: str) -> list[list[int]]:
    """The prompts in tokens. Raises UserError for those that cannot be used."""
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of texts, got one text", mend="put it into a list")
    if not prompts:
        raise UserError("there is nothing to sample", mend="give at least one prompt")
    if mode != "document":
        return encode_conversations(vocabulary, [[prompt] for prompt in prompts])
    for prompt in filter(None, prompts):
        where = f"prompt {prompt[:30]!r}"
        raise UserError("a document is sampled without a prompt", where=where, mend="choose another mode")
    return [[vocabulary.bos] for _ in prompts]
