"""Documents into chunks: at blank lines (paper, section 3), then short ones are joined and long ones cut.

Chunks, joined, are the document byte for byte, whatever the settings.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence

from anchortrain.annotate.config import ChunkConfig
from anchortrain.data.records import cut_chunks

Counter = Callable[[str], int]

# A character of a script without spaces between words, up to 12 letters of others, or a mark.
_WITHOUT_SPACES = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]{{1,12}}|[^\w\s]")

# Where a long paragraph may be cut, best first: after a sentence, a line, a clause, a word.
_CUTS = (
    re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])"),
    re.compile(r"\n+"),
    re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])"),
    re.compile(r"\s+"),
)
_BLOCK = 1 << 16
_WINDOW = 0.35  # how far from the ideal place a cut may lie, in lengths of a piece
_SLACK = 0.85  # of the limit, that pieces aim at: they do not come out equal


def count_words(text: str) -> int:
    """Tokens without a tokenizer: words of up to 12 letters and punctuation marks."""
    # Block by block, because `findall` is fast and makes a list: a word across two blocks may count twice.
    return sum(len(_TOKEN.findall(text, i, i + _BLOCK)) for i in range(0, len(text), _BLOCK))


def counter(config: ChunkConfig) -> Counter:
    """What counts tokens: the tokenizer of the configuration, or `count_words`."""
    if not config.tokenizer:
        return count_words
    from anchortrain.data.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_path(config.tokenizer)
    return lambda text: len(vocabulary.encode(text))


def chunks(text: str, config: ChunkConfig, count: Counter = count_words) -> list[str]:
    """Cuts a document.

    A paragraph shorter than `min_tokens` is joined to the next one, as a heading belongs to what follows, and at the
    end of the document to the one before, while the two together have at most `max_tokens`. One longer than
    `max_tokens` is cut into pieces of about equal length, after lines, sentences, clauses or words, in this order of
    preference.

    Args:
      text: of the document, not empty.
      config: limits, in tokens.
      count: tokens of a text.

    Returns:
      The chunks; joined they are `text`.
    """
    sized = []
    for paragraph in cut_chunks(text):
        tokens = count(paragraph)
        sized += (
            split(paragraph, tokens, config.max_tokens, count) if tokens > config.max_tokens else [(paragraph, tokens)]
        )
    return _joined(sized, config, count)


def _joined(sized: Sequence[tuple[str, int]], config: ChunkConfig, count: Counter) -> list[str]:
    parts: list[tuple[str, int]] = []
    for text, tokens in sized:
        both = _both(parts[-1], (text, tokens), config, count) if parts and parts[-1][1] < config.min_tokens else None
        parts[-1:] = [both] if both else [*parts[-1:], (text, tokens)]
    if len(parts) > 1 and parts[-1][1] < config.min_tokens and (both := _both(*parts[-2:], config, count)):
        parts[-2:] = [both]
    return [text for text, _ in parts]


def _both(
    first: tuple[str, int], second: tuple[str, int], config: ChunkConfig, count: Counter
) -> tuple[str, int] | None:
    """Two texts in one; None when that is too long."""
    if first[1] + second[1] > config.max_tokens:
        return None
    text = first[0] + second[0]
    tokens = count(text)  # a tokenizer does not always make the sum
    return (text, tokens) if tokens <= config.max_tokens else None


def split(text: str, tokens: int, most: int, count: Counter) -> list[tuple[str, int]]:
    """A text of `tokens` tokens in pieces of at most `most` and about equal length, each with its tokens.

    Takes time in proportion to the length: only the surroundings of the ideal places are searched.
    """
    if tokens <= most or len(text) < 2:
        return [(text, tokens)]
    parts = min(len(text), max(2, math.ceil(tokens / (most * _SLACK))))
    step = len(text) / parts
    ends = [_cut_near(text, round(i * step), max(1, int(step * _WINDOW))) for i in range(1, parts)]
    bounds = sorted({0, *ends, len(text)})
    pieces = [text[i:j] for i, j in itertools.pairwise(bounds)]
    return [one for piece in pieces for one in split(piece, count(piece), most, count)]


def _cut_near(text: str, target: int, window: int) -> int:
    """The best place to cut near `target`: the nearest one of the best sort that there is."""
    for pattern in _CUTS:
        ends = [found.end() for found in pattern.finditer(text, target - window, target + window)]
        if inside := [end for end in ends if end < len(text)]:
            return min(inside, key=lambda end: abs(end - target))
    return target
