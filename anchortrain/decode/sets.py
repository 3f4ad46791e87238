"""Sets of samples of one prompt: plans drawn independently (the paper) or without replacement, and several responses to
each."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.sharding import Mesh

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.distinct import DistinctAnnotation, distinct_annotations
from anchortrain.decode.engine import Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.prompts import encode_turns
from anchortrain.decode.sampler import resample_responses, sample
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import UNSTEERED, Steering
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

Row = dict[str, Any]


def sample_set(
    model: Transformer,
    vocabulary: Vocabulary,
    prompt: str,
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    plans: int,
    responses: int = 1,
    distinct: bool = False,
    seed: int = 0,
    first: int = 0,
    steering: Steering = UNSTEERED,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Draws plans for a prompt, and responses to each plan, which share the pass over prompt and plan.

    Args:
      plans: how many.
      responses: to each.
      distinct: no plan twice (`decode.distinct`), always under the grammar; fewer come where there are not more.
      first: index of the first row. Sets of several prompts need different ones, `plans * responses` apart: the same
        seed and index draw with the same random numbers.
      progress: called with the number of rows that were finished since the last call.

    Returns:
      Rows as those of `sampler.sample`, plan by plan, with `plan`, the number of the plan; with `distinct` also
      `inclusion`, the probability that the plan is in a set of this size. A plan that does not close has one row.

    Raises:
      UserError: like `sampler.sample`, and for distinct plans that are steered or without an annotation.
    """
    if plans < 1 or responses < 1:
        raise UserError(f"plans and responses must be at least 1, got {plans} and {responses}")
    if config.mode != "two_stage":
        raise UserError(f"plans are drawn in mode two_stage, not {config.mode}", mend="ask for samples alone")
    options: dict[str, Any] = {"seed": seed, "mesh": mesh, "progress": progress}
    if distinct:
        if steering:
            what = "distinct plans cannot be steered"
            raise UserError(what, mend="draw them independently, or steer nothing")
        drawn = _distinct(model, vocabulary, prompt, config, keys=keys, plans=plans, seed=seed, index=first, mesh=mesh)
        rows = _again(model, vocabulary, drawn, config, range(responses), (first, plans), options)
    else:
        prompts = [prompt] * plans
        indices = range(first, first + plans)
        rows = sample(model, vocabulary, prompts, config, keys=keys, steering=steering, indices=indices, **options)
        rows = [row | {"plan": i} for i, row in enumerate(rows)]
        closed = [row for row in rows if Role.TEXT in row["roles"]]
        rows += _again(model, vocabulary, closed, config, range(1, responses), (first, plans), options)
    return sorted(rows, key=lambda row: (row["plan"], row["index"]))


def _again(
    model: Transformer,
    vocabulary: Vocabulary,
    rows: Sequence[Row],
    config: SamplingConfig,
    numbers: Iterable[int],
    numbering: tuple[int, int],
    options: dict[str, Any],
) -> list[Row]:
    """A response with each of the numbers to the plan of each row. `numbering`: the first index, and how many plans."""
    first, plans = numbering
    asked = [(row, number) for row in rows for number in numbers]
    if not asked:
        return []
    indices = [first + row["plan"] + number * plans for row, number in asked]
    made = resample_responses(model, vocabulary, [row for row, _ in asked], config, indices=indices, **options)
    extra = ("plan", "inclusion")
    return [new | {name: row[name] for name in extra if name in row} for new, (row, _) in zip(made, asked, strict=True)]


def _distinct(
    model: Transformer,
    vocabulary: Vocabulary,
    prompt: str,
    config: SamplingConfig,
    *,
    keys: Sequence[str],
    plans: int,
    seed: int,
    index: int,
    mesh: Mesh | None,
) -> list[Row]:
    """Rows without responses."""
    tokens = (*encode_turns(vocabulary, [prompt]), vocabulary.ann_open)
    engine = Engine(
        model, vocabulary, keys, places=1, most_tokens=len(tokens) + config.max_annotation_tokens, mesh=mesh
    )
    request = Request(tokens, GrammarKey("annotation", tuple(keys)), config, seed, index)
    found = distinct_annotations(engine, request, plans)
    return [_row(prompt, i, one, vocabulary) for i, one in enumerate(found)]


def _row(prompt: str, plan: int, one: DistinctAnnotation, vocabulary: Vocabulary) -> Row:
    tokens, roles = zip((vocabulary.ann_open, int(Role.ANNOTATION_KEY)), *one.pairs, strict=True)
    return {
        "prompt": prompt,
        "plan": plan,
        "inclusion": one.inclusion,
        "tokens": list(tokens),
        "roles": list(roles),
        "annotation_wellformed": True,
        "annotation_logprob": one.logprob,
    }
