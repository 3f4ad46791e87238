"""The samples of a harvest, kept as they are drawn: one that is stopped, or asked for more, draws none twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchortrain.checkpoint import LoadedRun
from anchortrain.decode.sampler import resample_responses, sample
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.files import write_jsonl_atomic
from anchortrain.progress import Progress
from anchortrain.rehearsal.config import RehearsalConfig

Row = dict[str, Any]

# The index of the n-th response to a plan is that of the first and n times this.
RETRY = 1 << 26
_BATCHES = 16  # in a file


class Drawing:
    """Draws from a run into `directory`/part-INDEX.jsonl. A sample is a function of run, prompt, seed and index."""

    def __init__(self, directory: Path, run: LoadedRun, config: RehearsalConfig, seed: int) -> None:
        self._directory, self._run, self._seed = directory, run, seed
        self._sampling = SamplingConfig(
            annotation_temperature=config.annotation_temperature,
            response_temperature=config.response_temperature,
            max_annotation_tokens=config.max_annotation_tokens,
            max_response_tokens=config.max_response_tokens,
            constrain=True,
            batch_size=config.batch_size,
        )
        self._rows: dict[int, Row] = {}
        for path in sorted(directory.glob("part-*.jsonl")):
            for row in _read(path):
                self._rows[row["index"]] = row

    def plans(self, prompts: Sequence[str]) -> list[Row]:
        """A plan and a response for each prompt; the place of a prompt is its index."""

        def draw(chosen: Sequence[int], progress: Progress) -> list[Row]:
            return sample(
                self._run.model,
                self._run.vocabulary,
                [prompts[i] for i in chosen],
                self._sampling,
                keys=self._run.info.annotation_keys,
                seed=self._seed,
                indices=chosen,
                progress=progress.update,
            )

        return self._complete(range(len(prompts)), draw, "draw")

    def again(self, rows: Sequence[Row], attempt: int) -> list[Row]:
        """Another response to the plan of each sample; `attempt` counts from 1."""
        by_index = {row["index"] % RETRY + attempt * RETRY: row for row in rows}

        def draw(chosen: Sequence[int], progress: Progress) -> list[Row]:
            return resample_responses(
                self._run.model,
                self._run.vocabulary,
                [by_index[i] for i in chosen],
                self._sampling,
                seed=self._seed,
                indices=chosen,
                progress=progress.update,
            )

        return self._complete(list(by_index), draw, f"retry {attempt}")

    def _complete(self, indices: Sequence[int], draw: Any, label: str) -> list[Row]:
        """The samples of these indices; those that are missing are drawn and kept, file by file."""
        missing = [i for i in indices if i not in self._rows]
        size = _BATCHES * self._sampling.batch_size
        with Progress(len(indices), unit="samples", label=label) as progress:
            progress.skip(len(indices) - len(missing))
            for start in range(0, len(missing), size):
                made = draw(missing[start : start + size], progress)
                write_jsonl_atomic(self._directory / f"part-{made[0]['index']:010d}.jsonl", made)
                self._rows.update({row["index"]: row for row in made})
        return [self._rows[i] for i in indices]


def _read(path: Path) -> list[Row]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), mend="remove it: it is drawn again") from None
