"""A tiny tokenizer for tests."""

from collections.abc import Sequence
from pathlib import Path

from anchortrain.data.vocabulary import CONTROLS, Vocabulary

TEXTS = [
    "Tell me a story about the fox, please.",
    "hero: the old fox; place: mill by the river; time-of-day: late evening",
    "Once upon a time a fox lived at the mill of São Paulo’s café.\n\nThe end; so it was.",
]


def train_vocabulary(folder: Path, texts: Sequence[str] = TEXTS) -> Vocabulary:
    """Byte-level BPE with a few merges, so that characters are cut into bytes and keys into several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(CONTROLS),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts] * 4, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return Vocabulary.from_path(path)
