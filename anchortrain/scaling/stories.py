"""`python -m anchortrain.scaling.stories DIR`: data of a study on real stories, from those annotated in DIR/annotated.

    DIR/records/{documents,heldout,instructions,instructions_heldout}.jsonl
    DIR/tokenizer.json DIR/prompts.jsonl DIR/prepared/SET       the sets of `scaling.data`

Documents are all stories but those taken as responses. Responses are narrow as post-training data are: stories about
the commonest topics only, most of them, chosen by a hash of their ids. No story is in two files.
"""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anchortrain.data.prepare import prepare
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.errors import UserError
from anchortrain.files import write_jsonl_atomic
from anchortrain.quickstart.data import UNANNOTATED_SHARE

VOCABULARY = 2048
LENGTH = 320  # tokens of a row; longer stories go on in the next one
NARROW_TOPICS = 4
RESPONSES = 0.7  # of the stories about them
HELDOUT = 0.1
PROMPTS = (
    "Write a short story.",
    "Tell me a story.",
    "Write a story for a child.",
    "Tell a short tale for bedtime.",
    "Please make up a little story.",
    "I would like to hear a story.",
)
# Set of `scaling.data` -> file of records, and how it is prepared.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("documents", {"annotated": True}),
    "plain": ("documents", {"annotated": False}),
    "heldout": ("heldout", {"annotated": True}),
    "plain_heldout": ("heldout", {"annotated": False}),
    "sft": ("instructions", {"annotated": True}),
    "sft_plain": ("instructions", {"annotated": False}),
    "sft_mixed": ("instructions", {"annotated": True, "unannotated_share": UNANNOTATED_SHARE}),
    "sft_heldout": ("instructions_heldout", {"annotated": True}),
    "sft_plain_heldout": ("instructions_heldout", {"annotated": False}),
}


def main(directory: Path) -> None:
    """Makes what is missing. Raises UserError when there are no annotated stories."""
    records = directory / "records"
    if not records.exists():
        files = split(list(read_stories(directory / "annotated")))
        unfinished = directory / "records.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, rows in files.items():
            write_jsonl_atomic(unfinished / f"{name}.jsonl", rows)
            print(f"{name}: {len(rows)} records")
        unfinished.rename(records)
    write_jsonl_atomic(directory / "prompts.jsonl", ({"prompt": prompt} for prompt in PROMPTS))
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.exists():
        sources = [records / "documents.jsonl", records / "instructions.jsonl"]
        train_tokenizer(sources, vocab_size=VOCABULARY, out=tokenizer)
    (directory / "prepared").mkdir(exist_ok=True)
    for name, (source, how) in SETS.items():
        out = directory / "prepared" / name
        if not out.exists():
            kind = "instructions" if source.startswith("instructions") else "documents"
            long = {"long": "drop"} if kind == "instructions" else {}
            prepare(kind, [records / f"{source}.jsonl"], tokenizer, out, length=LENGTH, **long, **how)


def read_stories(annotated: Path) -> Iterator[dict[str, Any]]:
    """Records of a finished `anchortrain annotate` job."""
    parts = sorted(annotated.glob("part-*.jsonl"))
    if not parts or not (annotated / "manifest.json").exists():
        mend = "annotate the stories first: anchortrain annotate --schema … --out " + str(annotated)
        raise UserError("holds no finished annotation job", where=str(annotated), mend=mend)
    for part in parts:
        for line in part.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def split(stories: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """File -> its records; see the module. A story of several chunks is a document whatever it is about."""
    topics = Counter(topic for story in stories for chunk in story["chunks"] for topic in _topics(chunk))
    narrow = {topic for topic, _ in topics.most_common(NARROW_TOPICS)}
    if not narrow:
        raise UserError("no story has a tag 'topic'", mend="annotate with a schema that has the key")
    files: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("documents", "heldout", "instructions", "instructions_heldout")
    }
    for story in stories:
        chunk = story["chunks"][0]
        alone = len(story["chunks"]) == 1 and narrow.intersection(_topics(chunk))
        if alone and _uniform(story["id"], "response") < RESPONSES:
            prompt = PROMPTS[int(_uniform(story["id"], "prompt") * len(PROMPTS))]
            row = {"id": story["id"], "prompt": prompt, "response": chunk["text"], "annotation": chunk["annotation"]}
            name = "instructions"
        else:
            row, name = {"id": story["id"], "chunks": story["chunks"]}, "documents"
        if _uniform(story["id"], "heldout") < HELDOUT:
            name = "instructions_heldout" if name == "instructions" else "heldout"
        files[name].append(row)
    empty = [name for name, rows in files.items() if not rows]
    if empty:
        raise UserError(f"{len(stories)} stories are too few: none is left for {', '.join(empty)}")
    return files


def _topics(chunk: dict[str, Any]) -> list[str]:
    topics = (chunk["annotation"] or {}).get("topic", [])
    return [topics] if isinstance(topics, str) else topics


def _uniform(identity: str, purpose: str) -> float:
    """In [0, 1), of a hash: the same story falls the same way whatever else is in the corpus."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{identity}".encode()).digest()[:7]) / 2**56


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        print(f"anchortrain: error: {error}", file=sys.stderr)
        sys.exit(2)
