"""All samples of one command, part by part in a fixed order, so that drawing them can be stopped and resumed."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering
from anchortrain.errors import UserError

if TYPE_CHECKING:
    from anchortrain.checkpoint import LoadedRun

Row = dict[str, Any]


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
        """Rows that are asked for. Fewer come where a plan does not close, or there are no more distinct ones."""
        return len(self.prompts) * self.responses * len(self._configs())

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that says all that the rows follow from, but for the run."""
        described = dataclasses.asdict(self)
        described["prompts"] = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()
        del described["config"]["batch_size"]  # no sample depends on it
        return json.loads(json.dumps(described))

    def parts(
        self, loaded: "LoadedRun", *, done: int = 0, progress: Callable[[int], None] = lambda done: None
    ) -> Iterator[list[Row]]:
        """Rows in the order of temperatures and prompts: one by one, or all of a prompt where they are drawn together.

        Args:
          done: parts at the beginning that are there already.
          progress: called with the number of rows that were finished since the last call.
        """
        whole = self.baseline is not None or self._in_sets
        each = len(Counter(self.prompts)) if whole else len(self.prompts)
        for number, config in enumerate(self._configs()):
            skipped = min(max(done - number * each, 0), each)
            if skipped == each:
                continue
            extra = {} if self.temperatures is None else {"temperature": config.response_temperature}
            draw = self._answers if self.baseline else self._sets if self._in_sets else self._samples
            for part in draw(loaded, config, skipped, progress):
                yield [row | extra for row in part]

    @property
    def _in_sets(self) -> bool:
        return self.distinct or self.responses > 1

    def _configs(self) -> list[SamplingConfig]:
        if self.temperatures is None:
            return [self.config]
        both = ("annotation_temperature", "response_temperature")
        return [dataclasses.replace(self.config, **dict.fromkeys(both, one)) for one in self.temperatures]

    def _samples(
        self, loaded: "LoadedRun", config: SamplingConfig, skipped: int, progress: Callable[[int], None]
    ) -> Iterator[list[Row]]:
        from anchortrain.decode.sampler import stream

        waiting: dict[int, Row] = {}
        following = 0
        options = {"keys": loaded.info.annotation_keys, "seed": self.seed, "steering": self.steering}
        options["indices"] = range(skipped, len(self.prompts))
        for place, row in stream(loaded.model, loaded.vocabulary, self.prompts[skipped:], config, **options):
            progress(1)
            waiting[place] = row
            while following in waiting:
                yield [waiting.pop(following)]
                following += 1

    def _sets(
        self, loaded: "LoadedRun", config: SamplingConfig, skipped: int, progress: Callable[[int], None]
    ) -> Iterator[list[Row]]:
        from anchortrain.decode.sets import sample_set

        options = {"keys": loaded.info.annotation_keys, "seed": self.seed, "steering": self.steering}
        options |= {"distinct": self.distinct, "responses": self.responses, "progress": progress}
        first = 0
        for i, (prompt, plans) in enumerate(Counter(self.prompts).items()):
            if i >= skipped:
                options |= {"plans": plans, "first": first}
                yield sample_set(loaded.model, loaded.vocabulary, prompt, config, **options)
            first += plans * self.responses

    def _answers(
        self, loaded: "LoadedRun", config: SamplingConfig, skipped: int, progress: Callable[[int], None]
    ) -> Iterator[list[Row]]:
        from anchortrain.decode.baselines import BASELINES, indices_used
        from anchortrain.decode.sampler import sample

        def generate(asked: Sequence[str], begin: int) -> list[Row]:
            indices = range(first + begin, first + begin + len(asked))
            keys = loaded.info.annotation_keys
            return sample(loaded.model, loaded.vocabulary, asked, config, keys=keys, seed=self.seed, indices=indices)

        first = number = 0
        for i, (prompt, count) in enumerate(Counter(self.prompts).items()):
            if i >= skipped:
                rows = BASELINES[self.baseline](prompt, count, generate)
                part = [row | {"index": number + place} for place, row in enumerate(rows)]
                progress(len(part))
                yield part
            first += indices_used(count)  # another prompt, other random numbers
            number += count
