"""`python -m anchortrain.scaling.data KIND DIR JSON`: prepared data of a story world for one seed, in one process.

    DIR/world/ tokenizer.json prepared/{pretrain,plain,heldout}                      KIND documents
    DIR/world/ prepared/{sft,sft_plain,sft_mixed,sft_heldout,sft_plain_heldout}      KIND instructions

The same as a handful of `anchortrain` commands; together they import TensorFlow once. `ready.json` is written last.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from anchortrain.data.prepare import prepare
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from anchortrain.quickstart.data import LENGTH, UNANNOTATED_SHARE, VOCABULARY
from anchortrain.storyworld import corpus

# Set -> kind, source, and how; a study on other data names a prepared directory for each.
DOCUMENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pretrain": ("documents", corpus.PRETRAIN, {"annotated": True}),
    "plain": ("documents", corpus.PRETRAIN, {"annotated": False}),
    "heldout": ("documents", corpus.PRETRAIN_HELDOUT, {"annotated": True}),
    "plain_heldout": ("documents", corpus.PRETRAIN_HELDOUT, {"annotated": False}),
}
INSTRUCTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("instructions", corpus.SFT, {"annotated": True}),
    "sft_plain": ("instructions", corpus.SFT, {"annotated": False}),
    "sft_mixed": ("instructions", corpus.SFT, {"annotated": True, "unannotated_share": UNANNOTATED_SHARE}),
    "sft_heldout": ("instructions", corpus.SFT_HELDOUT, {"annotated": True}),
    "sft_plain_heldout": ("instructions", corpus.SFT_HELDOUT, {"annotated": False}),
}
READY = "ready.json"


def main(kind: str, directory: Path, spec: dict[str, Any]) -> None:
    """Args: `spec` has "seed", "documents", "examples", "narrowness" and, for instructions, "tokenizer"."""
    world = directory / "world"
    if not (world / corpus.WORLD).exists():
        shutil.rmtree(world, ignore_errors=True)
        counts = corpus.Counts(
            documents=spec["documents"], instructions=spec["examples"], narrowness=spec["narrowness"]
        )
        corpus.write(world, spec["seed"], counts)
    tokenizer = Path(spec.get("tokenizer") or directory / "tokenizer.json")
    if not tokenizer.exists():
        train_tokenizer([world / corpus.PRETRAIN, world / corpus.SFT], vocab_size=VOCABULARY, out=tokenizer)
    sets = DOCUMENTS if kind == "documents" else INSTRUCTIONS
    (directory / "prepared").mkdir(exist_ok=True)
    for name, (what, source, how) in sets.items():
        if not (directory / "prepared" / name).exists():
            prepare(what, [world / source], tokenizer, directory / "prepared" / name, length=LENGTH, **how)
    write_json_atomic(directory / READY, {"sets": list(sets)} | spec)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
    except UserError as error:
        sys.exit(f"anchortrain: error: {error}")
