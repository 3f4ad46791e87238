"""A contestant of `benchmarks.decode`: the engine. Arguments: size, directory of weights, rows, "single" or "two"."""

import sys
import tempfile
from pathlib import Path

from anchortrain.decode.engine import Drawn, Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.settings import SamplingConfig
from benchmarks.contest import serve
from benchmarks.data import make_vocabulary
from benchmarks.decode_inputs import ANNOTATION, NEW, make_prompts, read_model
from benchmarks.sizes import SIZES

KEYS = ("topic", "place", "hero")


def main(size: str, inputs: str, rows: str, stages: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        vocabulary = make_vocabulary(Path(directory))
    prompts = make_prompts(int(rows))
    engine = Engine(
        read_model(SIZES[size], inputs), vocabulary, KEYS, places=len(prompts), most_tokens=prompts.shape[1] + NEW
    )
    if stages == "two":
        config = SamplingConfig(max_annotation_tokens=ANNOTATION, max_response_tokens=NEW - ANNOTATION, constrain=True)
        grammar, last = GrammarKey("two_stage", KEYS), vocabulary.ann_open
    else:
        config, grammar, last = SamplingConfig(max_response_tokens=NEW), GrammarKey("single_stage", ()), None
    number, drawn = 0, []

    def step() -> None:
        nonlocal number
        requests = []
        for prompt in prompts.tolist():
            tokens = prompt if last is None else [*prompt[:-1], last]
            requests.append(Request(tuple(tokens), grammar, config, 0, number))
            number += 1
        drawn[:] = [found for _, found in engine.run(requests)]

    step()
    serve({"rows": len(prompts)}, step, lambda: told(drawn))


def told(drawn: list[Drawn]) -> int:
    """Tokens of the last batch: all that were asked for, or the figures would mean nothing."""
    return sum(len(one.tokens) for one in drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
