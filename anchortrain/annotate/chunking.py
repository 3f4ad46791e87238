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

# A word of up to 12 letters, a character of a script without spaces between words, or a mark.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w{1,12}|[^\w\s]")

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
    return _joined(sized, config)


def _joined(sized: Sequence[tuple[str, int]], config: ChunkConfig) -> list[str]:
    parts: list[list[str]] = []
    sizes: list[int] = []
    for text, tokens in sized:
        if parts and sizes[-1] < config.min_tokens and sizes[-1] + tokens <= config.max_tokens:
            parts[-1].append(text)
            sizes[-1] += tokens
        else:
            parts.append([text])
            sizes.append(tokens)
    if len(parts) > 1 and sizes[-1] < config.min_tokens and sizes[-2] + sizes[-1] <= config.max_tokens:
        last = parts.pop()
        parts[-1] += last
    return ["".join(part) for part in parts]


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
        if ends:
            return min(ends, key=lambda end: abs(end - target))
    return target
