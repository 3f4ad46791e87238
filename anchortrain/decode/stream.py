"""Samples that come bit by bit: an `Engine` with steering in front of it."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from anchortrain.annotation import Tag
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.engine import Drawn, Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.loop import CHUNK
from anchortrain.decode.samples import Pair, Sample, tags_of
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import ATTEMPTS, UNSTEERED, Phase, Steered, Steering
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role


class Update(NamedTuple):
    """How far a sample has come. None comes before its plan is settled: closed, and without a forbidden tag."""

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
    forbidden: frozenset[Tag]
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
        job = _Job(number, tuple(prompt), config, seed, index, frozenset(steering.forbidden), steered)
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
        if job.forbidden.intersection(tags_of(update.sample, self.vocabulary) or ()):
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
                tags = ", ".join(f"'{key}: {value}'" for key, value in sorted(job.forbidden))
                what = f"none of {ATTEMPTS} plans was without {tags}"
                raise UserError(what, mend="forbid less, or raise annotation_temperature")
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
