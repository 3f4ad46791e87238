"""The checker "annotator": the annotator reads the response, and must find the plan in it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from anchortrain.annotate.annotators import check, names, open_annotator
from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.config import Annotating, ChunkConfig, LabelsConfig, OfflineConfig, SourceConfig
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import load_schema
from anchortrain.annotation import from_json
from anchortrain.errors import UserError
from anchortrain.rehearsal.checker import Row, Verdict, compare
from anchortrain.rehearsal.config import Rehearsing

_SCHEMA = "instructions"  # as `anchortrain annotate --kind instructions` takes it


class Reannotation:
    """Keeps responses from which the annotator reads what the plan says, in the keys that both name.

    It should be the annotator that annotated the training data, so that both mean the same by a value: the offline
    one needs the model that was fitted then (`RehearsalConfig.annotate_job`).
    """

    def __init__(self, settings: Rehearsing, directory: Path) -> None:
        config = settings.rehearsal
        self._agreement = config.agreement
        annotate = dataclasses.replace(settings.annotate, kind="instructions")
        self._annotating = Annotating(
            SourceConfig(), ChunkConfig(), annotate, OfflineConfig(), settings.llm, LabelsConfig()
        )
        found = names(self._annotating)
        if "labels" in found:
            mend = "take offline or llm"
            raise UserError(
                "the annotator 'labels' cannot read a response", where="AnnotateConfig.annotator", mend=mend
            )
        if "offline" in found and not config.annotate_job:
            mend = "name the directory of the `anchortrain annotate` job that annotated the training data"
            raise UserError(
                "the offline annotator needs its fitted model", where="RehearsalConfig.annotate_job", mend=mend
            )
        check(self._annotating)
        schema = load_schema(annotate.schema or _SCHEMA)
        job = Path(config.annotate_job) if config.annotate_job else directory
        self._annotator = open_annotator(self._annotating, schema, job, llm_directory=directory)

    def check(self, rows: Sequence[Row]) -> list[Verdict]:
        passages = [
            Passage(row["response"], row["prompt"], chunk_type(row["response"]), str(row["index"]), 0, {})
            for row in rows
        ]
        answers = self._annotator.annotate(passages)
        return [self._verdict(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def _verdict(self, row: Row, answer: Answer) -> Verdict:
        if answer.failed is not None:
            return Verdict(False, "annotator failed")
        read: dict[str, list[str]] = {}
        for tag in answer.annotation or ():
            read.setdefault(tag.key, []).append(tag.value)
        return compare(from_json(row["annotation"]), read, self._agreement, nothing="nothing of the plan read back")

    def close(self) -> None:
        self._annotator.close()
