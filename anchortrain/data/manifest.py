"""The manifest of a prepared directory: what it holds and what it was made of."""

import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError

FORMAT = 2
KINDS = ("documents", "instructions", "draws")
MANIFEST = "manifest.json"
REPAIR = "run `anchortrain prepare` again"

_VERSIONED = ("numpy", "array-record", "tokenizers", "sentencepiece", "seqio", "tensorflow", "tensorflow-text")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared directory holds. Counts are of tokens as stored, without <bos> and padding."""

    kind: str  # one of KINDS
    annotated: bool
    vocabulary_hash: str  # sha256 of the tokenizer file
    vocabulary_size: int  # control tokens included
    vocabulary_file: str
    max_length: int  # no example is longer
    examples: int
    tokens: int
    tokens_by_role: dict[str, int]  # name of the role -> tokens
    annotation_keys: dict[str, int]  # key -> tags; in the order in which they usually stand
    shards: list[dict[str, Any]]  # {file, examples, sha256}
    sources: list[dict[str, Any]]  # {path, sha256, records}
    notes: dict[str, Any]
    versions: dict[str, str]
    stored_top_k: int = 0  # of "draws": tokens of each of the reference's distributions that are stored with them
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises UserError when the file is missing or is not a manifest of this format."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            what = (
                "no such directory" if not path.parent.is_dir() else f"not a prepared directory, it has no {MANIFEST}"
            )
            raise UserError(what, where=str(path.parent), mend="make it with `anchortrain prepare`") from None
        except (OSError, ValueError) as error:
            raise UserError(f"cannot be read: {error}", where=str(path), mend=REPAIR) from None
        found = value.get("format") if isinstance(value, dict) else None
        if found != FORMAT:
            raise UserError(f"field 'format' must be {FORMAT}, got {found!r}", where=str(path), mend=REPAIR)
        for field in dataclasses.fields(cls):
            # `dict[str, int]` is checked as a dict: its entries are only ever shown or looked up.
            kind = getattr(field.type, "__origin__", field.type)
            if not isinstance(value.get(field.name), kind):
                raise UserError(f"field {field.name!r} must be a {kind.__name__}", where=str(path), mend=REPAIR)
        if unknown := value.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise UserError(f"unknown field {min(unknown)!r}", where=str(path), mend=REPAIR)
        if value["kind"] not in KINDS:
            raise UserError(f"field 'kind' must be one of {', '.join(KINDS)}", where=str(path), mend=REPAIR)
        return cls(**value)


def loaded_versions() -> dict[str, str]:
    """Of Python, this package, and whatever of the tokenising packages this process has loaded."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("anchortrain", *_VERSIONED):
        if name.replace("-", "_") in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found
