"""All samples of one command, in numbered parts, so that drawing them can be stopped and resumed."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering
from anchortrain.errors import UserError

if TYPE_CHECKING:
    from anchortrain.checkpoint import LoadedRun

Row = dict[str, Any]


class _Turn(NamedTuple):
    """What is to be drawn at one temperature."""

    loaded: "LoadedRun"
    config: SamplingConfig
    missing: Sequence[int]  # places of parts
    progress: Callable[[int], None]
    refused: Callable[[str], None] | None


@dataclasses.dataclass(frozen=True)
class SampleJob:
    """Raises UserError for what does not go together.

    Attributes:
      prompts: one for each plan.
      config: how to sample.
      seed: with the index of a sample it decides what is drawn.
      steering: what is decided of the plans.
      responses: to each plan.
      distinct: no plan twice among those of a prompt.
      baseline: of `baselines.BASELINES`.
      temperatures: of both stages; it is all done at each of them, rows have `temperature`. None: at those of `config`.
    """

    prompts: tuple[str, ...]
    config: SamplingConfig
    seed: int = 0
    steering: Steering = Steering()
    responses: int = 1
    distinct: bool = False
    baseline: str | None = None
    temperatures: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.responses < 1:
            raise UserError(f"must be at least 1, got {self.responses}", where="--responses")
        if (self.steering or self._in_sets) and self.config.mode != "two_stage":
            what = "plans are steered, drawn without replacement or answered several times in two stages only"
            raise UserError(what, mend="leave out --single_stage, --document or --baseline")
        if self.temperatures is not None and len(set(self.temperatures)) < len(self.temperatures):
            raise UserError("a temperature is given twice", where="--temperatures", mend="give each once")
        self._configs()

    @property
    def count(self) -> int:
        """Rows that are asked for. Fewer come where a plan does not close, there are no more distinct ones, or no plan
        without forbidden tags is found."""
        return len(self.prompts) * self.responses * len(self._configs())

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that says all that the rows follow from, but for the run."""
        described = dataclasses.asdict(self)
        described["prompts"] = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()
        del described["config"]["batch_size"]  # no sample depends on it
        return json.loads(json.dumps(described))

    def parts(
        self,
        loaded: "LoadedRun",
        *,
        done: Container[int] = (),
        progress: Callable[[int], None] = lambda done: None,
        refused: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[int, list[Row]]]:
        """Numbers and rows, as they are finished: of one sample, or of all of a prompt where they are drawn together.
        The numbers follow the order of temperatures and prompts.

        Args:
          done: numbers of those that are there already.
          progress: called with the number of rows that were finished since the last call.
          refused: called for a sample that cannot be drawn, which has no rows; by default UserError is raised.
        """
        each = len(Counter(self.prompts)) if self.baseline or self._in_sets else len(self.prompts)
        draw = self._answers if self.baseline else self._sets if self._in_sets else self._samples
        for turn, config in enumerate(self._configs()):
            begin = turn * each
            missing = [place for place in range(each) if begin + place not in done]
            extra = {} if self.temperatures is None else {"temperature": config.response_temperature}
            if missing:
                for place, part in draw(_Turn(loaded, config, missing, progress, refused)):
                    yield begin + place, [row | extra for row in part]

    @property
    def _in_sets(self) -> bool:
        return self.distinct or self.responses > 1

    def _configs(self) -> list[SamplingConfig]:
        if self.temperatures is None:
            return [self.config]
        both = ("annotation_temperature", "response_temperature")
        return [dataclasses.replace(self.config, **dict.fromkeys(both, one)) for one in self.temperatures]

    def _samples(self, turn: _Turn) -> Iterator[tuple[int, list[Row]]]:
        from anchortrain.decode.sampler import stream

        empty: list[int] = []

        def skip(number: int, why: str) -> None:
            turn.refused(why)
            empty.append(turn.missing[number])

        options = {"keys": turn.loaded.info.annotation_keys, "seed": self.seed, "steering": self.steering}
        options |= {"indices": turn.missing, "refused": skip if turn.refused else None}
        prompts = [self.prompts[place] for place in turn.missing]
        for number, row in stream(turn.loaded.model, turn.loaded.vocabulary, prompts, turn.config, **options):
            while empty:  # whoever shows rows in order waits for them
                yield empty.pop(), []
            turn.progress(1)
            yield turn.missing[number], [row]
        yield from ((place, []) for place in empty)

    def _sets(self, turn: _Turn) -> Iterator[tuple[int, list[Row]]]:
        from anchortrain.decode.sets import sample_set

        options = {"keys": turn.loaded.info.annotation_keys, "seed": self.seed, "steering": self.steering}
        options |= {"distinct": self.distinct, "responses": self.responses, "progress": turn.progress}
        first = 0
        for place, (prompt, plans) in enumerate(Counter(self.prompts).items()):
            if place in turn.missing:
                options |= {"plans": plans, "first": first}
                yield place, sample_set(turn.loaded.model, turn.loaded.vocabulary, prompt, turn.config, **options)
            first += plans * self.responses

    def _answers(self, turn: _Turn) -> Iterator[tuple[int, list[Row]]]:
        from anchortrain.decode.baselines import BASELINES, indices_used
        from anchortrain.decode.sampler import sample

        def generate(asked: Sequence[str], begin: int) -> list[Row]:
            indices = range(first + begin, first + begin + len(asked))
            keys = turn.loaded.info.annotation_keys
            return sample(
                turn.loaded.model,
                turn.loaded.vocabulary,
                asked,
                turn.config,
                keys=keys,
                seed=self.seed,
                indices=indices,
            )

        first = number = 0
        for place, (prompt, count) in enumerate(Counter(self.prompts).items()):
            if place in turn.missing:
                rows = BASELINES[self.baseline](prompt, count, generate)
                part = [row | {"index": number + i} for i, row in enumerate(rows)]
                turn.progress(len(part))
                yield place, part
            first += indices_used(count)  # another prompt, other random numbers
            number += count


def in_order(parts: Iterator[tuple[int, list[Row]]]) -> Iterator[list[Row]]:
    """Parts by number from 0 on, each as soon as those before it are there."""
    waiting: dict[int, list[Row]] = {}
    following = 0
    for number, part in parts:
        waiting[number] = part
        while following in waiting:
            yield waiting.pop(following)
            following += 1
