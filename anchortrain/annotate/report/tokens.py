"""What texts and annotations cost: tokens of a tokenizer, or words and punctuation marks."""

import re
from collections.abc import Sequence

from anchortrain.annotation import Annotation, pieces

_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
_DELIMITERS = 2


class TokenCounter:
    """Counts as `anchortrain prepare` would: every piece by itself, the two delimiters as a token each.

    Attributes:
      unit: what is counted, in words.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        """`tokenizer`: tokenizer.json or SentencePiece *.model. Raises UserError when it cannot be read."""
        self._vocabulary = None
        self.unit = "words and punctuation marks"
        if tokenizer is not None:
            from anchortrain.data.vocabulary import Vocabulary

            self._vocabulary = Vocabulary.from_path(tokenizer)
            self.unit = f"tokens of {self._vocabulary.path.name}"

    def texts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        if self._vocabulary is None:
            return [len(_WORD_OR_MARK.findall(text)) for text in texts]
        return [len(ids) for ids in self._vocabulary.encode_batch(list(texts))]

    def annotation(self, annotation: Annotation | None) -> int:
        """Tokens of an annotation with its delimiters; none for a missing one."""
        if annotation is None:
            return 0
        return _DELIMITERS + sum(self.texts([text for text, _ in pieces(annotation)]))
