"""A contestant of `benchmarks.decode`: Hugging Face's `generate`. Arguments: size, directory of weights, rows."""

import sys

import torch

from benchmarks.contest import serve
from benchmarks.decode_inputs import NEW, make_prompts
from benchmarks.sizes import SIZES
from benchmarks.step_torch import load_model


def main(size: str, inputs: str, rows: str) -> None:
    model = load_model(SIZES[size], inputs).eval()
    prompts = torch.from_numpy(make_prompts(int(rows))).long()
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "temperature": 1.0, "top_k": 0}
    made = None

    def step() -> None:
        nonlocal made
        with torch.inference_mode():
            made = model.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **settings)

    step()
    serve({"rows": len(prompts)}, step, lambda: made.numel() - prompts.numel())


if __name__ == "__main__":
    main(*sys.argv[1:])
