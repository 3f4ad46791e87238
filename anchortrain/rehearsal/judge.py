"""The checker "judge": a language model grades the response as an answer to its prompt.

It asks as the llm annotator does, with a schema of the one key "grade", so that connections, retries, budgets and the
cache of paid answers are that annotator's (docs/annotate.md).
"""

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from anchortrain.annotate.chunk_types import TYPES
from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm import LlmAnnotator
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Key, Schema
from anchortrain.rehearsal.checker import Row, Verdict
from anchortrain.rehearsal.config import RehearsalConfig

GRADES = ("1", "2", "3", "4", "5")
_SCHEMA = Schema("judge", "Grades of answers.", (Key("grade", "how good the answer is", values=GRADES),), TYPES, 1)
_PROMPT_CHARACTERS = 4000  # of the user's prompt that the judge is shown


class Judge:
    """Keeps responses with at least the grade `RehearsalConfig.judge_grade`."""

    def __init__(self, config: RehearsalConfig, llm: LlmConfig, directory: Path) -> None:
        """Raises UserError on a bad `LlmConfig` or template."""
        self._least = config.judge_grade
        shown = max(llm.context_characters, _PROMPT_CHARACTERS)
        with resources.as_file(resources.files("anchortrain.rehearsal") / "judge.txt") as ours:
            template = config.judge_prompt or str(ours)
            settings = dataclasses.replace(llm, prompt=template, context_characters=shown)
            self._asker = LlmAnnotator(settings, _SCHEMA, directory)

    def check(self, rows: Sequence[Row]) -> list[Verdict]:
        passages = [Passage(row["response"], row["prompt"], TYPES[0], str(row["index"]), 0, {}) for row in rows]
        return [self._verdict(answer) for answer in self._asker.annotate(passages)]

    def _verdict(self, answer: Answer) -> Verdict:
        if answer.failed is not None or not answer.annotation:
            return Verdict(False, "judge gave no grade")
        grade = int(answer.annotation[0].value)
        return Verdict(grade >= self._least, "" if grade >= self._least else "graded too low", float(grade))

    def close(self) -> None:
        self._asker.close()
