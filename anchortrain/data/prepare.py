"""Materialises a SeqIO task as a prepared directory. TensorFlow ends here."""

import contextlib
import itertools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchortrain.annotation import render
from anchortrain.data.manifest import MANIFEST, Manifest
from anchortrain.data.prepared import Example, PreparedWriter
from anchortrain.data.records import PARSERS, Document, empty_corpus
from anchortrain.data.rows import NOTES
from anchortrain.data.sources import digest, expand, read_lines
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.progress import Progress

if TYPE_CHECKING:
    from anchortrain.data.tasks import RoleTask

_CHECKED_RECORDS = 32  # round trips through the tokenizer


def prepare(
    kind: str,
    inputs: Sequence[str | Path],
    tokenizer: str | Path,
    out: str | Path,
    *,
    annotated: bool = True,
    length: int = 128,
    tokens: int | None = None,
    match: str | Path | None = None,
    shards: int = 1,
    unannotated_share: float = 0.0,
    long: str | None = None,
) -> Manifest:
    """Tokenises records and writes them to the directory `out`.

    Args:
      kind: "documents" or "instructions".
      inputs: files or folders, see `data.sources`.
      tokenizer: `tokenizer.json` or `*.model`.
      out: directory to make; must not exist.
      annotated: False leaves all annotations out.
      length: most tokens of an example.
      tokens: stop after exactly so many tokens, the last example cut short; None takes everything.
      match: take `tokens` from this prepared directory instead.
      shards: number of files.
      unannotated_share, long: see `tasks.add_task`.

    Raises:
      UserError: on bad input, and when the corpus has fewer tokens than asked for. Nothing is left behind.
    """
    if length < 2:
        raise UserError(f"length must be at least 2 tokens, got {length}")
    vocabulary = Vocabulary.from_path(tokenizer)
    budget = _budget(tokens, match, vocabulary)
    inputs = expand(inputs)
    sources = [_source(path) for path in inputs]
    records = sum(source["records"] for source in sources)
    if not records:
        raise empty_corpus(inputs)
    described = {"kind": kind, "annotated": annotated, "max_length": length, "sources": sources, "shards": shards}
    with PreparedWriter(out, vocabulary=vocabulary, **described) as writer:
        tasks = _tensorflow_tasks()
        task = tasks.make_task(
            "prepare",
            kind=kind,
            files=inputs,
            vocabulary=vocabulary,
            annotated=annotated,
            max_length=length,
            unannotated_share=unannotated_share,
            long=long,
        )
        _warn_about_loss(kind, inputs, vocabulary)
        notes = _write(task, writer, budget, records)
        if annotated and notes["unannotated"] == notes["records"]:
            print("warning: no record has an annotation; --plain says that this is meant", file=sys.stderr)
        return writer.finish(**notes)


def _budget(tokens: int | None, match: str | Path | None, vocabulary: Vocabulary) -> int | None:
    if match is not None:
        if tokens is not None:
            raise UserError("tokens and match both set the budget", mend="give one of them")
        other = Manifest.read(Path(match) / MANIFEST)
        if other.vocabulary_hash != vocabulary.hash:
            what = f"prepared with another vocabulary than {vocabulary.path}"
            raise UserError(what, where=str(match), mend="tokens can only be matched within a vocabulary")
        return other.tokens
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens must be at least 1, got {tokens}")
    return tokens


def _source(path: Path) -> dict[str, Any]:
    """What the manifest says of a source. Raises UserError when the file cannot be read."""
    records = sum(1 for _ in read_lines([path]))
    return {"path": str(path), "sha256": digest(path), "records": records}


def _write(task: "RoleTask", writer: PreparedWriter, budget: int | None, records: int) -> dict[str, int]:
    """Writes the task's examples, up to the budget. Returns the notes for the manifest."""
    written, read = 0, 0
    unit, total = ("records", records) if budget is None else ("tokens", budget)
    with Progress(total, unit, "prepare") as progress, contextlib.closing(task.examples()) as batches:
        for batch in batches:
            for example, keys, notes in _unpadded(batch):
                if budget is not None:
                    example = _cut(example, budget - written)
                writer.add(example, keys)
                progress.update(notes["records"] - read if budget is None else len(example.tokens))
                written, read = written + len(example.tokens), notes["records"]
                if written == budget:
                    return notes | {"budget": budget}
    if budget is not None:
        mend = "add records, or ask for fewer (prepare the smaller corpus first and --match it)"
        raise UserError(f"the corpus has {written} tokens, {budget} are asked for", mend=mend)
    # Unlike the last row's, these count the records dropped after it.
    return dict(task.notes)


def _unpadded(batch: dict[str, np.ndarray]) -> Iterator[tuple[Example, list[str], dict[str, int]]]:
    """Each example of a batch, the keys of its annotations, and the notes up to it."""
    roles = batch["roles"].astype(np.uint8)
    lengths, notes = np.count_nonzero(roles, axis=1).tolist(), batch["notes"].tolist()
    for i, n in enumerate(lengths):
        example = Example(batch["targets"][i, :n], roles[i, :n], batch["id"][i].decode())
        yield example, batch["annotation_keys"][i].decode().split(), dict(zip(NOTES, notes[i], strict=True))


def _cut(example: Example, length: int) -> Example:
    return Example(example.tokens[:length], example.roles[:length], example.id)


def _tensorflow_tasks() -> Any:
    """Imports `anchortrain.data.tasks` with TensorFlow on two threads, on the CPU, and without its chatter."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with _silenced():
        import absl.logging
        import tensorflow as tf

        from anchortrain.data import tasks
    absl.logging.set_verbosity(absl.logging.ERROR)
    with contextlib.suppress(RuntimeError):  # already running: a caller has decided
        tf.config.threading.set_intra_op_parallelism_threads(2)
        tf.config.threading.set_inter_op_parallelism_threads(2)
        tf.config.set_visible_devices([], "GPU")
    return tasks


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Holds back what is written to standard error, also by C++; shows it if the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _warn_about_loss(kind: str, inputs: Sequence[str | Path], vocabulary: Vocabulary) -> None:
    """One line on standard error when the first records do not survive the tokenizer."""
    lost: Counter[str] = Counter()
    records = map(PARSERS[kind], itertools.islice(read_lines(inputs), _CHECKED_RECORDS))
    for record in records:
        if isinstance(record, Document):
            texts = [one for chunk in record.chunks for one in (chunk.text, render(chunk.annotation or ()))]
        else:
            texts = [record.prompt, record.response, render(record.annotation or ())]
        for text in texts:
            lost.update(losses(text, vocabulary.decode(vocabulary.encode(text))))
    if lost:
        named = ", ".join(name for name, _ in lost.most_common(12))
        print(f"warning: {vocabulary.path} is lossy on this corpus; lost are {named}", file=sys.stderr)


def losses(text: str, back: str) -> list[str]:
    """Names what of `text` is not in `back`, which was decoded from its tokens."""
    if text == back:
        return []
    counts, counts_back = Counter(text), Counter(back)
    missing = [character for character in counts if counts[character] > counts_back[character]]
    found = []
    if "\n" in missing:
        found.append("newlines")
    if any(character.isspace() and character != "\n" for character in missing):
        found.append("spaces")
    visible = [character for character in missing if not character.isspace()]
    cased = [character for character in visible if counts_back[character.lower()] > counts[character.lower()]]
    if cased:
        found.append("capital letters")
    found += [repr(character) for character in visible if character not in cased]
    if not found:
        # Nothing is missing, but something was added or moved.
        found = ["exact spaces" if "".join(text.split()) == "".join(back.split()) else "the order of characters"]
    return found
