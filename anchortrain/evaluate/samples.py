"""Reading samples: JSON lines as `anchortrain sample` writes them, or instruction records."""

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchortrain import annotation
from anchortrain.data.sources import Line, read_lines
from anchortrain.errors import UserError
from anchortrain.roles import ANNOTATION_ROLES

Sample = Mapping[str, Any]

_ARTICLE = re.compile(r"(?:a|an|the)\s+")


def read_samples(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `.jsonl` or `.jsonl.gz` file of samples; blank lines are skipped.

    Only `response` is required. Raises UserError naming file, line and field.
    """
    rows = [_row(line) for line in read_lines([path])]
    if not rows:
        raise UserError("holds no samples", where=str(path), mend="make some with `anchortrain sample`")
    return rows


def _row(line: Line) -> dict[str, Any]:
    try:
        row = json.loads(line.data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON: {error}", where=line.where, mend="every line must be one JSON object") from None
    if not isinstance(row, dict):
        raise UserError("a sample must be a JSON object", where=line.where, mend="every line must be one JSON object")
    if not isinstance(row.get("response"), str):
        raise UserError("field 'response' must be a string", where=line.where, mend="give every sample its response")
    if not isinstance(row.get("annotation"), list | dict | None):
        mend = "give the sampler's output or instruction records"
        raise UserError("field 'annotation' must be a list of pairs, an object or null", where=line.where, mend=mend)
    roles = row.get("roles")
    if roles is not None and not (isinstance(roles, list) and all(type(role) is int for role in roles)):
        mend = "give the sampler's output unchanged"
        raise UserError("field 'roles' must be a list of integers", where=line.where, mend=mend)
    return row


def tags(sample: Sample) -> annotation.Annotation | None:
    """The tags of a sample; None when it has no annotation or one that breaks the grammar."""
    if sample.get("annotation") is None:
        return None
    try:
        return annotation.from_json(sample["annotation"])
    except annotation.AnnotationError:
        return None


def annotation_wellformed(sample: Sample) -> bool | None:
    """Whether the annotation follows the grammar; None when the sample never had one, as under standard SFT."""
    if sample.get("annotation") is None and not sample.get("annotation_text"):
        if not any(role in ANNOTATION_ROLES for role in sample.get("roles") or ()):
            return None
    return bool(sample.get("annotation_wellformed", True)) and tags(sample) is not None


def canonical(value: str) -> str:
    """The class of a value: NFKC, case folded, without a leading article and punctuation around it."""
    folded = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    bare = _ARTICLE.sub("", folded, count=1) if _ARTICLE.match(folded) else folded
    return bare.strip(" .,;:!?\"'()[]") or folded
