"""What the sampler says of a sample becomes what a client may see of a choice. Roles alone decide what is text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.samples import Sample, to_row
from anchortrain.decode.stream import Update
from anchortrain.roles import ANNOTATION_ROLES, Role
from anchortrain.serve.text import Decoding, DrawnToken, StopText

_LEAST_LOGPROB = -9999.0  # as OpenAI's API: JSON has no infinity


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is new of a choice.

    Attributes:
      text, tokens: of the response, without control tokens; a token comes once its text is out.
      details: the extension object, or None where there is nothing to say.
      finish_reason: None while more will come; "stop" when the response ended or met a stop string, "length" when a
        limit cut response or annotation off, "content_filter" when no permitted annotation could be drawn.
    """

    text: str
    tokens: list[DrawnToken]
    details: dict[str, Any] | None
    finish_reason: str | None


class Choice:
    """One sample as it comes. Counts of tokens are those drawn up to the end of what is shown."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str], *, annotation: bool, two_stage: bool) -> None:
        self._vocabulary, self._shown, self._two_stage = vocabulary, annotation, two_stage
        self._decoding, self._text = Decoding(vocabulary), StopText(stops)
        self._read = 0  # tokens of the sample that were taken
        self._begun = False
        self._logprob = 0.0
        self.annotation_tokens = self.response_tokens = 0
        self.finish_reason: str | None = None

    def take(self, update: Update) -> Piece:
        """What is new. After one with a finish reason nothing more may be taken."""
        if update.refusal is not None:
            return self._piece({"refusal": update.refusal}, "content_filter")
        details = {} if self._begun else self._plan(update.sample)
        self._begun = True
        self._advance(update.sample, update.logprobs)
        if self._text.stopped:
            return self._piece(details | self._end(), "stop")
        if not update.done:
            return self._piece(details, None)
        self._text.push(self._decoding.rest())
        finished = self._text.stopped or update.sample.finished
        return self._piece(details | self._end(), "stop" if finished else "length")

    def _advance(self, sample: Sample, logprobs: Sequence[float]) -> None:
        new = slice(self._read, None)
        for token, role, logprob in zip(sample.tokens[new], sample.roles[new], logprobs[new], strict=True):
            if role != Role.TEXT:
                self.annotation_tokens += role in ANNOTATION_ROLES
                continue
            self.response_tokens += 1
            self._logprob += logprob
            if token not in self._vocabulary.control_ids:
                self._text.push(self._decoding.push(token), DrawnToken(token, max(logprob, _LEAST_LOGPROB)))
            if self._text.stopped:
                break
        self._read = len(sample.tokens)

    def _plan(self, sample: Sample) -> dict[str, Any]:
        if not self._two_stage:
            return {}
        row = to_row(sample, self._vocabulary)
        if not self._shown:  # that there is no plan to rely on is said unasked
            return {} if row["annotation_wellformed"] else {"wellformed": False}
        return {
            "annotation": row["annotation"],
            "annotation_text": row["annotation_text"],
            "wellformed": row["annotation_wellformed"],
            "annotation_logprob": max(sample.annotation_logprob, _LEAST_LOGPROB),
        }

    def _end(self) -> dict[str, Any]:
        return {"response_logprob": max(self._logprob, _LEAST_LOGPROB)} if self._shown else {}

    def _piece(self, details: dict[str, Any], finish_reason: str | None) -> Piece:
        self.finish_reason = finish_reason
        text, tokens = self._text.pop(last=finish_reason is not None)
        return Piece(text, tokens, details or None, finish_reason)
