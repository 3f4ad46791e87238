"""SeqIO tasks and mixtures whose every token has a role.

    add_task("tales", kind="documents", files=["tales.jsonl"], vocabulary=Vocabulary.from_path("tokenizer.json"))
    task = seqio.get_mixture_or_task("tales")
    lengths = {"targets": 128, "roles": 128}
    ds = task.get_dataset(lengths, split="train", shuffle=False)
    ds = RoleFeatureConverter(vocabulary=task.output_features["targets"].vocabulary)(ds, lengths)

The way of the data: source (lines) -> interleave -> tokenise -> rows with the features `targets` and `roles`,
and beside them `id`, `annotation_keys` and `notes`. Records are worked on in batches, one Python call a batch
and step.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from anchortrain.data.records import KINDS, empty_corpus
from anchortrain.data.rows import LONG, NOTES, Pieces, RowMaker
from anchortrain.data.sources import Line, read_lines
from anchortrain.data.task_vocabulary import TaskVocabulary
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.roles import Role

_BATCH = 256  # records

Files = Sequence[str | Path] | Mapping[str, Sequence[str | Path]]


class RoleTask(seqio.Task):
    """A task that also tells what it did (`notes`, see `rows.NOTES`) and what stopped it (`error`).

    TensorFlow reads ahead, so `notes` are final only when all examples have been read.
    """

    notes: Counter[str]
    error: UserError | None = None

    def examples(self, split: str = "train") -> Iterator[dict[str, np.ndarray]]:
        """Batches of all examples in order, padded with zeros: `targets` and `roles` [batch, longest],
        `id` and `annotation_keys` (joined by spaces) [batch], and `notes` [batch, NOTES]: counts up to
        and including the example. Raises UserError on bad input."""
        ds = self.get_dataset(None, split=split, shuffle=False, trim_output_features=False)
        batches = ds.padded_batch(_BATCH).as_numpy_iterator()
        try:
            yield from batches
        except tf.errors.OpError:
            if self.error is None:
                raise
        finally:
            # Stops the threads that read ahead. One that is still in Python when the interpreter ends hangs it.
            del batches
        if self.error is not None:
            # Raised only here because TensorFlow's error, as its context, would keep those threads alive.
            raise self.error.with_traceback(None)


def make_task(
    name: str,
    *,
    kind: str,
    files: Files,
    vocabulary: Vocabulary,
    annotated: bool = True,
    max_length: int | None = None,
    unannotated_share: float = 0.0,
    long: str | None = None,
) -> RoleTask:
    """A task that is not registered; see `add_task`."""
    check_options(kind=kind, unannotated_share=unannotated_share, long=long)
    seqio_vocabulary = TaskVocabulary(vocabulary)
    maker = RowMaker(
        vocabulary,
        kind=kind,
        annotated=annotated,
        max_length=max_length,
        long=long or default_long(kind),
        unannotated_share=unannotated_share,
    )
    by_split = dict(files) if isinstance(files, Mapping) else {"train": list(files)}

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        """Keeps the first UserError, of which TensorFlow would only pass on the text, and stops at it."""

        def call(*args: Any) -> Any:
            if task.error is not None:
                raise task.error
            try:
                return function(*args)
            except UserError as error:
                task.error = error
                raise

        return call

    def lines(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # SeqIO shuffles examples afterwards
        spec = {name: tf.TensorSpec([None], tf.string) for name in Line._fields}
        return tf.data.Dataset.from_generator(
            lambda: _line_batches(by_split[split], guarded), output_signature=spec
        ).unbatch()

    feature = seqio.Feature(seqio_vocabulary, add_eos=False, dtype=tf.int32)
    roles = seqio.Feature(seqio.PassThroughVocabulary(len(Role)), add_eos=False, dtype=tf.int32)
    task = RoleTask(
        name,
        source=seqio.FunctionDataSource(lines, splits=list(by_split)),
        output_features={"targets": feature, "roles": roles},
        preprocessors=[_preprocessor(seqio_vocabulary, maker, guarded)],
    )
    task.notes = maker.notes
    return task


def add_task(name: str, **options: Any) -> RoleTask:
    """Registers a task with SeqIO, under `name`.

    Args:
      name: letters, digits, `_`, `.`, `:`, `-`; not yet taken.
      kind: "documents" or "instructions".
      files: JSONL files of the split "train", or a mapping from split to files.
      vocabulary: a `Vocabulary`.
      annotated: False leaves all annotations out.
      max_length: most tokens of an example. The smaller of this and `sequence_length["targets"]` holds.
      unannotated_share: share of instructions whose annotation is left out, chosen by a hash of their id.
      long: what becomes of a longer record: "split" (the default for documents), "error" (the default
        for instructions) or "drop".
    """
    task = make_task(name, **options)
    seqio.TaskRegistry.add_provider(name, task)
    return task


def add_mixture(name: str, rates: Mapping[str, float]) -> seqio.Mixture:
    """Registers a mixture of tasks (or mixtures) by name and rate; all must share a vocabulary."""
    return seqio.MixtureRegistry.add(name, list(rates.items()))


def default_long(kind: str) -> str:
    """Documents are split, instructions cannot be."""
    return "split" if kind == "documents" else "error"


def check_options(*, kind: str, unannotated_share: float, long: str | None) -> None:
    """Raises UserError on options that make no sense."""
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if long is not None and long not in LONG:
        raise UserError(f"long must be one of {', '.join(LONG)}, got {long!r}")
    if kind == "instructions" and long == "split":
        raise UserError("instructions cannot be split", mend="use --long drop or error")
    if not 0 <= unannotated_share <= 1:
        raise UserError(f"unannotated_share must lie in 0..1, got {unannotated_share}")
    if unannotated_share and kind != "instructions":
        raise UserError("unannotated_share is for instructions only")


def _line_batches(paths: Sequence[str | Path], guarded: Callable[..., Any]) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the fields of `Line`, [R] each."""
    lines = read_lines(paths)
    batch_of = guarded(lambda: list(itertools.islice(lines, _BATCH)))
    if not (batch := batch_of()):
        guarded(_raise)(empty_corpus(paths))
    while batch:
        columns = zip(*batch, strict=True)
        yield {name: np.array(column, object) for name, column in zip(Line._fields, columns, strict=True)}
        batch = batch_of()


def _raise(error: Exception) -> None:
    raise error


def _preprocessor(
    vocabulary: TaskVocabulary, maker: RowMaker, guarded: Callable[..., Any]
) -> Callable[..., tf.data.Dataset]:
    """Lines to rows."""

    def pieces(maker: RowMaker, data: np.ndarray, where: np.ndarray, default_id: np.ndarray) -> Pieces:
        lines = zip(data, where, default_id, strict=True)
        return maker.pieces(Line(line, place.decode(), id.decode()) for line, place, id in lines)

    def rows(
        maker: RowMaker, tokens: np.ndarray, lengths_D: np.ndarray, where: np.ndarray, *arrays: np.ndarray
    ) -> list[np.ndarray]:
        made = maker.rows(tokens, lengths_D, Pieces(*arrays), [place.decode() for place in where])
        padded = np.zeros([2, len(made), max((len(row.tokens) for row in made), default=0)], np.int32)
        for i, row in enumerate(made):
            padded[:, i, : len(row.tokens)] = row.tokens, row.roles
        ids, keys = [row.id.encode() for row in made], [" ".join(row.keys).encode() for row in made]
        notes = np.array([row.notes for row in made], np.int32).reshape(-1, len(NOTES))
        return [padded[0], padded[1], np.array(ids, object), np.array(keys, object), notes]

    def batch_rows(maker: RowMaker, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        types = [tf.string, tf.int32, tf.int32, tf.int32, tf.string, tf.string, tf.int32]
        arrays = tf.numpy_function(guarded(partial(pieces, maker)), [batch[name] for name in Line._fields], types)
        tokens = vocabulary.encode_tf(tf.ensure_shape(arrays[0], [None]))
        arguments = [tokens.flat_values, tokens.row_lengths(), batch["where"], *arrays]
        made = tf.numpy_function(
            guarded(partial(rows, maker)), arguments, [tf.int32, tf.int32, tf.string, tf.string, tf.int32]
        )
        shapes = {"targets": [None, None], "roles": [None, None], "id": [None], "annotation_keys": [None]}
        shapes["notes"] = [None, len(NOTES)]
        return {name: tf.ensure_shape(one, shapes[name]) for name, one in zip(shapes, made, strict=True)}

    def unpadded(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        n = tf.math.count_nonzero(example["roles"])
        return {**example, "targets": example["targets"][:n], "roles": example["roles"][:n]}

    def interleaved(ds: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None) -> tf.data.Dataset:
        limited = maker.limited((sequence_length or {}).get("targets"))
        batches = ds.batch(_BATCH).map(lambda batch: batch_rows(limited, batch))
        return batches.prefetch(2).unbatch().map(unpadded)

    return interleaved
