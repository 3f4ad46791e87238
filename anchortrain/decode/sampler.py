"""Two-stage sampling of many prompts, and what comes back (paper, section 3, stage 4)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.engine import LEAST_PLACES, Drawn, Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.loop import CHUNK
from anchortrain.decode.prompts import encode_conversations
from anchortrain.decode.samples import Pair, Sample, tags_of, to_row
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import ATTEMPTS, UNSTEERED, Phase, Steered, Steering
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role


class Draw(NamedTuple):
    """An annotation drawn for a prompt, as an example to anchor: `<user> prompt <assistant> ⏎⏎ <ann> … </ann>`."""

    tokens: list[int]
    roles: list[int]
    wellformed: bool
    closed: bool  # False when the limit cut it off


class Update(NamedTuple):
    """How far a sample has come. None comes before its plan is settled: closed, and accepted by its steering."""

    number: int
    sample: Sample
    logprobs: list[float]  # of each token of the sample, 0 for those that were given
    done: bool  # nothing more comes
    refusal: str | None = None  # why there is no sample


@dataclasses.dataclass
class _Job:
    number: int
    prompt: tuple[int, ...]
    config: SamplingConfig
    seed: int
    index: int
    steering: Steering
    steered: Steered | None
    phase: Phase | None = None
    stages: int = 0  # requests so far, in this attempt
    attempt: int = 0
    logprobs: list[float] = dataclasses.field(default_factory=list)  # of what is given


class Sampler:
    """Samples in two stages, steered or not, many at once through an `Engine`. Not for several threads at once."""

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
        """See `Engine`.

        Args:
          keys: of the schema, in the order in which they usually stand in an annotation.
        """
        self.vocabulary, self.keys = vocabulary, tuple(keys)
        self.engine = Engine(model, vocabulary, keys, places=places, most_tokens=most_tokens, mesh=mesh)
        self._jobs: dict[int, _Job] = {}  # by the engine's number
        self._numbers = itertools.count()
        self._refused: list[Update] = []

    def submit(
        self,
        prompt: Sequence[int],
        config: SamplingConfig,
        *,
        seed: int,
        index: int = 0,
        steering: Steering = UNSTEERED,
    ) -> int:
        """Queues a sample and returns its number.

        Args:
          prompt: `encode_turns`, or `<bos>` alone in mode "document".
          config: its batch size is not used.
          seed, index: with weights, prompt, config and steering they decide what is drawn.

        Raises:
          UserError: when it cannot be drawn.
        """
        if not 0 <= seed < 1 << 32:
            raise UserError(f"the seed must lie in 0..{(1 << 32) - 1}, got {seed}")
        steered = Steered(self.vocabulary, self.keys, steering, config) if steering else None
        number = next(self._numbers)
        job = _Job(number, tuple(prompt), config, seed, index, steering, steered)
        self._begin(job)
        return number

    def cancel(self, number: int) -> None:
        """Forgets a sample. Unknown and finished ones are no error."""
        for engine_number, job in list(self._jobs.items()):
            if job.number == number:
                self._forget(engine_number)

    @property
    def in_flight(self) -> int:
        return self.engine.in_flight

    @property
    def waiting(self) -> int:
        """Those without a place, and those of which it has still to be said that they are refused."""
        return self.engine.waiting + len(self._refused)

    def step(self, tokens: int = CHUNK, *, idle: int | None = None) -> list[Update]:
        """Draws some tokens for all; see `Engine.step`."""
        updates, self._refused = self._refused, []
        for engine_number, drawn, _ in self.engine.step(tokens, idle=idle):
            updates += self._update(engine_number, drawn)
        return updates

    def run(self) -> Iterator[Update]:
        """The last update of every sample, as they are done."""
        while self.in_flight or self.waiting:
            yield from (update for update in self.step() if update.done)

    def _begin(self, job: _Job) -> None:
        job.phase = job.steered.first() if job.steered else None
        job.stages, job.logprobs = 0, [0.0] * len(job.phase.given if job.phase else ())
        self._draw(job)

    def _draw(self, job: _Job) -> None:
        """Asks the engine for the next phase. Raises UserError when it cannot be drawn."""
        config, phase = job.config, job.phase
        opened = () if config.mode == "single_stage" else (self.vocabulary.ann_open,)
        seed = job.seed
        if job.attempt or job.stages:
            seed = int(np.random.SeedSequence([seed, job.attempt, job.stages]).generate_state(1)[0])
        if phase is None:
            grammar = GrammarKey(config.mode, self.keys if opened else ())
            request = Request((*job.prompt, *opened), grammar, config, seed, job.index)
        else:
            given = [token for token, _ in phase.given]
            config = dataclasses.replace(
                config, constrain=True, max_annotation_tokens=max(config.max_annotation_tokens - phase.reserved, 1)
            )
            tokens = (*job.prompt, *opened, *given)
            request = Request(tokens, phase.grammar, config, seed, job.index, len(given), phase.value_ended)
        self._jobs[self.engine.submit(request)] = job
        job.stages += 1

    def _update(self, engine_number: int, drawn: Drawn) -> Iterator[Update]:
        job = self._jobs.get(engine_number)
        if job is None:
            return
        last = job.phase is None or job.phase.last
        if not last and drawn.finished:
            del self._jobs[engine_number]
            pairs = list(zip(drawn.tokens, drawn.roles, strict=True))
            job.phase = job.steered.after(job.phase, pairs)
            kept = (job.logprobs + drawn.logprobs)[: job.phase.kept]
            job.logprobs = kept + [0.0] * (len(job.phase.given) - len(kept))
            self._again(job, self._draw)
        if not last or not (drawn.finished or drawn.wellformed or drawn.roles[-1:] == [Role.TEXT]):
            return
        update = self._settled(job, drawn)
        if job.steering.redraws and not job.steering.accepts(tags_of(update.sample, self.vocabulary) or ()):
            self._forget(engine_number)
            job.attempt += 1
            self._again(job, self._begin)
            return
        if drawn.finished:
            del self._jobs[engine_number]
        yield update

    def _again(self, job: _Job, draw: Callable[[_Job], None]) -> None:
        """Goes on with a job by `draw`, or gives it up."""
        try:
            if job.attempt == ATTEMPTS:
                what = f"none of {ATTEMPTS} plans was {job.steering.demands}"
                raise UserError(what, mend="ask for less, or raise annotation_temperature")
            draw(job)
        except UserError as error:
            nothing = Sample("", job.index, [], [], False, False, 0.0, 0.0)
            self._refused.append(Update(job.number, nothing, [], True, str(error)))

    def _settled(self, job: _Job, drawn: Drawn) -> Update:
        given: list[Pair] = []
        if job.config.mode != "single_stage":
            given = [(self.vocabulary.ann_open, int(Role.ANNOTATION_KEY)), *(job.phase.given if job.phase else ())]
        before = [0.0] * bool(given) + job.logprobs
        tokens, roles = ([pair[i] for pair in given] for i in (0, 1))
        sample = Sample(
            prompt="",
            index=job.index,
            tokens=tokens + drawn.tokens,
            roles=roles + drawn.roles,
            wellformed=bool(given) and drawn.wellformed,
            finished=drawn.ended and drawn.roles[-1] == Role.TEXT,
            annotation_logprob=sum(before) + drawn.stage_logprobs[0],
            response_logprob=drawn.stage_logprobs[1],
        )
        return Update(job.number, sample, before + drawn.logprobs, drawn.finished)

    def _forget(self, engine_number: int) -> None:
        self.engine.cancel(engine_number)
        del self._jobs[engine_number]


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
      UserError: for prompts or settings that cannot be used, when no plan is accepted, and when the model
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
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `sample`: (place in `prompts`, row), each as it is finished."""
    read = _read(vocabulary, prompts, config.mode)
    numbered = range(len(prompts)) if indices is None else indices
    most = max(map(len, read)) + (config.mode != "single_stage") * (1 + config.max_annotation_tokens)
    most += config.max_response_tokens
    places = _places(len(prompts), config)
    sampler = Sampler(model, vocabulary, keys, places=places, most_tokens=most, mesh=mesh)
    order = {
        sampler.submit(tokens, config, seed=seed, index=index, steering=steering): place
        for place, (tokens, index) in enumerate(zip(read, numbered, strict=True))
    }
    for update in sampler.run():
        if update.refusal:
            raise UserError(update.refusal)
        place = order[update.number]
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
    if not prompts:
        raise UserError("there is nothing to sample", mend="give at least one prompt")
    if mode != "document":
        return encode_conversations(vocabulary, [[prompt] for prompt in prompts])
    for prompt in filter(None, prompts):
        where = f"prompt {prompt[:30]!r}"
        raise UserError("a document is sampled without a prompt", where=where, mend="choose another mode")
    return [[vocabulary.bos] for _ in prompts]
