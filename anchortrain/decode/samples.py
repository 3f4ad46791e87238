"""What the sampler drew, as the rows of a samples file (docs/data.md).

Everything that is shown derives from the tokens and their roles. `anchortrain.evaluate.samples` reads
the files again.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from anchortrain.annotation import Annotation, AnnotationError, make_tag, render
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.roles import ANNOTATION_ROLES, Role

Pair = tuple[int, int]  # token and role


class Sample(NamedTuple):
    """One sample. Tokens are those after the prompt, the forced `<ann>` and the final `<eos>` included."""

    prompt: str
    index: int
    tokens: list[int]
    roles: list[int]
    wellformed: bool  # every annotation follows the grammar and is closed; False without one
    finished: bool  # ended by itself, not by a limit
    annotation_logprob: float
    response_logprob: float


def to_row(sample: Sample, vocabulary: Vocabulary) -> dict[str, Any]:
    """A sample as it is written: one JSON object.

    `annotation` is null unless all annotations are well-formed; those of a document's chunks follow one another,
    in `annotation_text` on lines of their own. `response` is the text without control tokens.
    """
    annotations, tags = _annotations(sample, vocabulary), _read(sample, vocabulary)
    wellformed = bool(tags)
    texts = [render(found) for found in tags] if wellformed else [_decode(run, vocabulary) for run in annotations]
    return {
        "prompt": sample.prompt,
        "index": sample.index,
        "annotation": [list(tag) for found in tags for tag in found] if wellformed else None,
        "annotation_text": "\n".join(texts),
        "annotation_wellformed": wellformed,
        "response": _decode([pair for pair in _pairs(sample) if pair[1] == Role.TEXT], vocabulary),
        "finished": sample.finished,
        "tokens": sample.tokens,
        "roles": sample.roles,
        "annotation_logprob": sample.annotation_logprob,
        "response_logprob": sample.response_logprob,
    }


def tags_of(sample: Sample, vocabulary: Vocabulary) -> Annotation | None:
    """The tags of all its annotations; None unless they are well-formed."""
    read = _read(sample, vocabulary)
    return tuple(itertools.chain(*read)) if read else None


def _read(sample: Sample, vocabulary: Vocabulary) -> list[Annotation]:
    """The tags of each annotation; none unless all are well-formed."""
    if not sample.wellformed:
        return []
    read = [read_tags(run, vocabulary) for run in _annotations(sample, vocabulary)]
    found = [tags for tags in read if tags is not None]
    return found if len(found) == len(read) else []


def _pairs(sample: Sample) -> list[Pair]:
    return list(zip(sample.tokens, sample.roles, strict=True))


def _decode(pairs: Iterable[Pair], vocabulary: Vocabulary) -> str:
    return vocabulary.decode([token for token, _ in pairs])


def _annotations(sample: Sample, vocabulary: Vocabulary) -> list[list[Pair]]:
    """The annotations, each with its delimiters. Cut at the opening one: the text between may be empty."""
    found: list[list[Pair]] = []
    for token, role in _pairs(sample):
        if token == vocabulary.ann_open:
            found.append([])
        if role in ANNOTATION_ROLES:
            found[-1].append((token, role))
    return found


def read_tags(pairs: list[Pair], vocabulary: Vocabulary) -> Annotation | None:
    """The tags of a well-formed annotation. Keys and values are decoded apart, because SentencePiece puts spaces
    between pieces that were tokenised apart; None when it loses something else."""
    texts = [_decode(run, vocabulary).strip() for _, run in itertools.groupby(pairs, key=lambda pair: pair[1])]
    try:
        # The closing delimiter is a run of its own; it has no value to go with.
        tags = zip(texts[0::2], texts[1::2], strict=False)
        return tuple(make_tag(key.lstrip("; ").removesuffix(":"), value) for key, value in tags)
    except AnnotationError:
        return None
