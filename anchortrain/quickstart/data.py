"""`python -m anchortrain.quickstart.data OUT SEED`: the quick start's data, prepared in one process.

The same as a handful of `anchortrain prepare` commands; together they import TensorFlow once.
"""

import json
import sys
from pathlib import Path

from anchortrain.data.prepare import prepare
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.files import write_text_atomic

LENGTH = 224  # tokens of a training row: two stories
VOCABULARY = 2048  # more than the story world needs: every word becomes one token
UNANNOTATED_SHARE = 0.2  # of the instructions that also teach to answer without a plan

# Directory under OUT/prepared -> kind, source, and how.
SETS = {
    "plain": ("documents", "pretrain", {"annotated": False}),
    "pretrain": ("documents", "pretrain", {}),
    "heldout": ("documents", "pretrain_heldout", {}),
    "sft": ("instructions", "sft", {}),
    "sft_plain": ("instructions", "sft", {"annotated": False}),
    "sft_mixed": ("instructions", "sft", {"unannotated_share": UNANNOTATED_SHARE}),
    "sft_heldout": ("instructions", "sft_heldout", {}),
}


def main(out: Path) -> None:
    world, prepared, tokenizer = out / "world", out / "prepared", out / "tokenizer.json"
    if not tokenizer.exists():
        train_tokenizer([world / "pretrain.jsonl", world / "sft.jsonl"], vocab_size=VOCABULARY, out=tokenizer)
    prepared.mkdir(exist_ok=True)
    for name, (kind, source, how) in SETS.items():
        if not (prepared / name).exists():
            how = {"annotated": True} | how
            prepare(kind, [world / f"{source}.jsonl"], tokenizer, prepared / name, length=LENGTH, **how)
    write_text_atomic(prepared / "ready.json", json.dumps(list(SETS)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
