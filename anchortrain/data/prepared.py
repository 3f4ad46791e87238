"""The on-disk format of training data: token rows with roles, in ArrayRecord shards with a manifest.

A prepared directory holds

    manifest.json                   what is inside and what it was made of (`Manifest`)
    data-00000-of-00004.arrayrecord one record an example, `group_size:1` so that any one is read by itself
    lengths.npy                     uint32, tokens of each example, in the order of the shards read one after another
    tokenizer.json|tokenizer.model  a copy of the vocabulary

A record is little-endian: u32 n, u32[n] tokens, u8[n] roles, and the rest is the example's id in UTF-8. With
`Manifest.stored_top_k` = k there are, before the id, i32[m, k] token ids and f32[m, k] log-probabilities: a reference's
distributions at the m positions where the anchor compares.
"""

import hashlib
import os
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from anchortrain.data.manifest import KINDS, MANIFEST, REPAIR, Manifest, loaded_versions
from anchortrain.errors import UserError
from anchortrain.roles import Role, anchored

if TYPE_CHECKING:
    from anchortrain.data.vocabulary import Vocabulary

LENGTHS = "lengths.npy"


class TopK(NamedTuple):
    """Next-token distributions at m positions: the k most probable tokens; the rest of the mass is left."""

    ids: np.ndarray  # int32[m, k]
    log_probs: np.ndarray  # float32[m, k]


class Example(NamedTuple):
    """One example as stored: no <bos>, no padding. Read from disk the arrays are read-only."""

    tokens: np.ndarray  # int32[n]
    roles: np.ndarray  # uint8[n]
    id: str
    reference: TopK | None = None  # at the positions of `roles.anchored`


def encode_record(example: Example) -> bytes:
    """The bytes of one record."""
    parts = [np.array(len(example.tokens), "<u4"), np.asarray(example.tokens, "<u4")]
    parts.append(np.asarray(example.roles, np.uint8))
    if example.reference is not None:
        parts += [np.asarray(example.reference.ids, "<i4"), np.asarray(example.reference.log_probs, "<f4")]
    return b"".join(part.tobytes() for part in parts) + example.id.encode(errors="replace")


def decode_record(record: bytes, top_k: int = 0) -> Example:
    """The inverse of `encode_record`. Raises ValueError when the bytes cannot be a record."""
    n = int.from_bytes(record[:4], "little")
    if len(record) < 4 + 5 * n or n == 0:
        raise ValueError(f"a record of {len(record)} bytes cannot hold {n} tokens")
    tokens = np.frombuffer(record, "<i4", n, 4)  # written as u4, but no token id is that large
    roles = np.frombuffer(record, np.uint8, n, 4 + 4 * n)
    if not top_k:
        return Example(tokens, roles, record[4 + 5 * n :].decode())
    m, start = int(anchored(roles).sum()), 4 + 5 * n
    if len(record) < start + 8 * m * top_k:
        raise ValueError(f"a record of {len(record)} bytes cannot hold {n} tokens and {m} distributions")
    ids, log_probs = (
        np.frombuffer(record, kind, m * top_k, start + 4 * m * top_k * i).reshape(m, top_k)
        for i, kind in enumerate(("<i4", "<f4"))
    )
    return Example(tokens, roles, record[start + 8 * m * top_k :].decode(), TopK(ids, log_probs))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PreparedWriter:
    """Writes a prepared directory under `<directory>.partial` and renames it at the end.

    As a context manager it removes what it wrote when the block raises or never calls `finish`.
    With several shards examples are dealt out in turn; an example's index counts through shard 0 first.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        kind: str,
        annotated: bool,
        vocabulary: "Vocabulary",
        max_length: int,
        sources: Sequence[dict[str, Any]] = (),
        shards: int = 1,
        stored_top_k: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if shards < 1 or max_length < 1:
            raise UserError("shards and max_length must be at least 1", where=str(directory))
        self.directory = Path(directory)
        if self.directory.exists():
            raise UserError("already exists", where=str(directory), mend="remove it or choose another directory")
        self._partial = self.directory.with_name(self.directory.name + ".partial")
        self._described = {"kind": kind, "annotated": annotated, "max_length": max_length, "sources": list(sources)}
        self._described["stored_top_k"] = stored_top_k
        self._vocabulary = vocabulary
        self._lengths: list[list[int]] = [[] for _ in range(shards)]
        self._tokens_by_role = np.zeros(len(Role), np.int64)
        self._annotation_keys: Counter[str] = Counter()
        self._positions: Counter[str] = Counter()  # sums over tags; 0 is the beginning of an example's, 1 the end
        self._added = 0
        self._open = True
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot be made: {error.strerror}", where=str(self._partial)) from None
        self._files = [f"data-{i:05d}-of-{shards:05d}.arrayrecord" for i in range(shards)]
        self._writers = [
            array_record_module.ArrayRecordWriter(str(self._partial / file), "group_size:1") for file in self._files
        ]

    def add(self, example: Example, annotation_keys: Sequence[str] = ()) -> None:
        """Appends one example. `annotation_keys` are the keys of its tags in their order, once for each tag."""
        tokens, roles = np.asarray(example.tokens), np.asarray(example.roles)
        where, size = f"{self.directory}: example {example.id!r}", self._vocabulary.size
        if tokens.ndim != 1 or tokens.shape != roles.shape or tokens.size == 0:
            raise ValueError(f"{where}: tokens and roles must be non-empty and of one length")
        if tokens.min() < 0 or tokens.max() >= size:
            raise ValueError(f"{where}: token ids must lie in 0..{size - 1}")
        if roles.min() <= Role.PAD or roles.max() > max(Role):
            raise ValueError(f"{where}: every stored token needs a role other than PAD")
        stored = (0, 0) if example.reference is None else example.reference.ids.shape
        if stored[1] != self._described["stored_top_k"] or (stored[1] and stored[0] != anchored(roles).sum()):
            raise ValueError(f"{where}: distributions of shape {stored} do not fit the roles and stored_top_k")
        if tokens.size > self._described["max_length"]:
            raise UserError(f"{tokens.size} tokens, at most {self._described['max_length']}", where=where)
        shard = self._added % len(self._writers)
        try:
            self._writers[shard].write(encode_record(example))
        except RuntimeError as error:
            raise UserError(f"cannot be written: {error}", where=str(self._partial)) from None
        self._lengths[shard].append(tokens.size)
        self._tokens_by_role += np.bincount(roles, minlength=len(Role))
        self._annotation_keys.update(annotation_keys)
        for i, key in enumerate(annotation_keys):
            self._positions[key] += (i + 0.5) / len(annotation_keys)
        self._added += 1

    def finish(self, **notes: Any) -> Manifest:
        """Writes the manifest and puts the directory in its place. Raises UserError on an empty data set."""
        try:
            if not self._added:
                raise UserError("no examples to write", where=str(self.directory), mend="check the source files")
            manifest = self._write_rest(notes)
            os.rename(self._partial, self.directory)
        except (OSError, RuntimeError) as error:
            self.abort()
            raise UserError(f"cannot be written: {error}", where=str(self.directory)) from None
        except BaseException:
            self.abort()
            raise
        self._open = False
        return manifest

    def _write_rest(self, notes: dict[str, Any]) -> Manifest:
        shards = []
        for file, writer, lengths in zip(self._files, self._writers, self._lengths, strict=True):
            writer.close()
            # A full disk can pass unnoticed while writing; a file that cannot be read back does not.
            if _open_shard(self._partial / file).num_records() != len(lengths):
                raise OSError(f"{file} does not read back; is there space left?")
            shards.append({"file": file, "examples": len(lengths), "sha256": _sha256(self._partial / file)})
        np.save(self._partial / LENGTHS, np.concatenate([np.array(n, np.uint32) for n in self._lengths]))
        shutil.copyfile(self._vocabulary.path, self._partial / self._vocabulary.file_name)
        manifest = Manifest(
            **self._described,
            vocabulary_hash=self._vocabulary.hash,
            vocabulary_size=self._vocabulary.size,
            vocabulary_file=self._vocabulary.file_name,
            examples=self._added,
            tokens=int(self._tokens_by_role.sum()),
            tokens_by_role={role.name: int(self._tokens_by_role[role]) for role in Role if role != Role.PAD},
            annotation_keys=self._keys_in_order(),
            shards=shards,
            notes=notes,
            versions=loaded_versions(),
        )
        (self._partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return manifest

    def _keys_in_order(self) -> dict[str, int]:
        """By where they stand in an annotation on average: whoever steers puts a tag where the model expects it."""
        counts = self._annotation_keys
        return {key: counts[key] for key in sorted(counts, key=lambda key: self._positions[key] / counts[key])}

    def abort(self) -> None:
        """Removes everything written so far; nothing happens after `finish`."""
        if self._open:
            self._open = False
            for writer in self._writers:
                if writer.is_open():
                    writer.close()
            shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> "PreparedWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _open_shard(path: Path) -> Any:
    # No read-ahead: records are read one by one, in shuffled order.
    return array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")


class PreparedDataset(Sequence[Example]):
    """Random access to a prepared directory. Thread-safe.

    Raises UserError when the directory is missing, is not a prepared one, or is damaged.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.read(self.directory / MANIFEST)
        self.lengths = self._read_lengths()  # uint32[examples]
        self._readers, self._starts = [], []
        start = 0
        for shard in self.manifest.shards:
            self._starts.append(start)
            self._readers.append(self._open_checked(self.directory / shard["file"], shard["examples"]))
            start += shard["examples"]
        if start != self.manifest.examples:
            raise self._damaged(MANIFEST, f"shards hold {start} examples, expected {self.manifest.examples}")

    def _damaged(self, file: str, what: str) -> UserError:
        return UserError(f"damaged: {what}", where=str(self.directory / file), mend=REPAIR)

    def _read_lengths(self) -> np.ndarray:
        try:
            lengths = np.load(self.directory / LENGTHS, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(LENGTHS, str(error)) from None
        examples, tokens = self.manifest.examples, self.manifest.tokens
        if lengths.dtype != np.uint32 or lengths.shape != (examples,) or examples == 0:
            raise self._damaged(LENGTHS, f"must hold {examples} (at least one) uint32, has {lengths.shape}")
        if lengths.sum(dtype=np.int64) != tokens or lengths.min() == 0:
            raise self._damaged(LENGTHS, f"lengths must be positive and add up to {tokens} tokens")
        return lengths

    def _open_checked(self, path: Path, examples: int) -> Any:
        if not path.is_file():
            raise self._damaged(path.name, "missing")
        try:
            reader = _open_shard(path)
            found = reader.num_records()
        except (OSError, RuntimeError) as error:
            raise self._damaged(path.name, str(error)) from None
        if found != examples:
            raise self._damaged(path.name, f"{found} readable records, expected {examples}")
        return reader

    def __len__(self) -> int:
        return self.manifest.examples

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Many examples at once (the name is Grain's), each shard read by one call."""
        by_shard: dict[int, list[int]] = {}
        for at, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"{self.directory}: no example {index}, there are {len(self)}")
            by_shard.setdefault(bisect_right(self._starts, index) - 1, []).append(at)
        found: list[Any] = [None] * len(indices)
        top_k = self.manifest.stored_top_k
        for shard, ats in by_shard.items():
            positions = [int(indices[at]) - self._starts[shard] for at in ats]
            file = self.manifest.shards[shard]["file"]
            try:
                examples = [decode_record(record, top_k) for record in self._readers[shard].read(positions)]
            except (RuntimeError, ValueError) as error:
                raise self._damaged(file, str(error)) from None
            for at, example in zip(ats, examples, strict=True):
                if len(example.tokens) != self.lengths[indices[at]]:
                    raise self._damaged(file, f"example {indices[at]} is not as long as {LENGTHS} says")
                found[at] = example
        return found

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """The vocabulary, from the directory's own copy."""
        from anchortrain.data.vocabulary import Vocabulary

        path = self.directory / self.manifest.vocabulary_file
        if not path.is_file():
            raise self._damaged(path.name, "missing")
        vocabulary = Vocabulary.from_path(path)
        if vocabulary.hash != self.manifest.vocabulary_hash:
            raise self._damaged(path.name, "not the vocabulary that the tokens were made with")
        return vocabulary


def check_compatible(datasets: Sequence[PreparedDataset], *, length: int) -> None:
    """Raises UserError unless all share a vocabulary and every example fits a row of `length` tokens."""
    for dataset in datasets:
        first = datasets[0]
        if dataset.manifest.vocabulary_hash != first.manifest.vocabulary_hash:
            raise UserError(
                f"prepared with another vocabulary than {first.directory}",
                where=str(dataset.directory),
                mend="prepare both with the same --tokenizer",
            )
        longest = int(dataset.lengths.max())
        if longest > length:
            raise UserError(
                f"has an example of {longest} tokens, but rows are {length} long",
                where=str(dataset.directory),
                mend=f"prepare it with --length {length} or train with longer rows",
            )
