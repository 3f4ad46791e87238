"""A byte-level BPE tokenizer for a corpus, trained on the pieces that will be tokenised with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from anchortrain.data.interleave import interleave
from anchortrain.data.records import read_training_records
from anchortrain.data.vocabulary import CONTROLS
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic

# All bytes and the controls: below this nothing could be merged.
MIN_VOCAB_SIZE = 256 + len(CONTROLS)


def _texts(paths: Sequence[str | Path]) -> Iterator[str]:
    for record in read_training_records(paths):
        for segment in interleave(record):
            yield from (piece.text for piece in segment.head + segment.body if not piece.control)


def train_tokenizer(paths: Sequence[str | Path], *, vocab_size: int, out: str | Path) -> int:
    """Trains on documents and instructions (files may hold either) and writes a Hugging Face `tokenizer.json`.

    Lossless: every byte is a token, and no space is added or lost. The controls have the ids 0..6, in the
    order of `CONTROLS`. The same input gives the same file. Returns the number of ids, which is below
    `vocab_size` when the corpus has no more to merge. Raises UserError on bad input.
    """
    import tokenizers

    if vocab_size < MIN_VOCAB_SIZE:
        what = f"vocab_size must be at least {MIN_VOCAB_SIZE} ({len(CONTROLS)} controls and 256 bytes)"
        raise UserError(f"{what}, got {vocab_size}")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROLS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(paths), trainer)
    write_text_atomic(out, tokenizer.to_str(pretty=True) + "\n")
    return tokenizer.get_vocab_size()
