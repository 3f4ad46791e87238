"""A `Vocabulary` as SeqIO wants it."""

import itertools
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from anchortrain.data.vocabulary import Vocabulary


class TaskVocabulary(seqio.Vocabulary):
    """SentencePiece runs in the graph, by tensorflow-text; a Hugging Face tokenizer runs beside it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self._model = vocabulary.path.read_bytes() if vocabulary.file_name == "tokenizer.model" else None

    @property
    def bos_id(self) -> int:
        return self.vocabulary.bos

    @property
    def eos_id(self) -> int:
        return self.vocabulary.eos

    @property
    def pad_id(self) -> int:
        return self.vocabulary.pad

    @property
    def unk_id(self) -> None:
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Strings [] or [n] to ids [tokens] or ragged [n, tokens], int32."""
        if self._model is not None:
            return tf_text.SentencepieceTokenizer(model=self._model).tokenize(s)
        flat, lengths = tf.numpy_function(self._encode_numpy, [tf.reshape(s, [-1])], [tf.int32, tf.int64])
        flat, lengths = tf.ensure_shape(flat, [None]), tf.ensure_shape(lengths, [None])
        return flat if s.shape.rank == 0 else tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)

    def _encode_numpy(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.vocabulary.encode_batch([text.decode() for text in texts])
        flat = np.fromiter(itertools.chain.from_iterable(found), np.int32)
        return flat, np.array([len(ids) for ids in found], np.int64)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Ids [tokens] or [n, tokens] to strings [] or [n]."""

        def decode(rows: np.ndarray) -> np.ndarray:
            texts = [self.vocabulary.decode(row).encode() for row in rows.reshape(-1, rows.shape[-1])]
            return np.array(texts, object).reshape(rows.shape[:-1])

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskVocabulary) and self.vocabulary.hash == other.vocabulary.hash

    def __str__(self) -> str:
        return f"TaskVocabulary(file={self.vocabulary.path}, size={self.vocab_size})"
