"""A contestant of `benchmarks.train_step`: Hugging Face's Olmo2ForCausalLM and PyTorch's AdamW, in float32.

Arguments: size, directory of the inputs, "eager" or "compile".
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from anchortrain.model.huggingface import config_to_huggingface
from benchmarks.contest import serve
from benchmarks.sizes import SIZES, Size
from benchmarks.step_inputs import OPTIMIZER, read_batch


def load_model(size: Size, inputs: str) -> Olmo2ForCausalLM:
    """The model with the weights of `inputs`."""
    config = Olmo2Config(
        **config_to_huggingface(size.model, size.vocabulary),
        max_position_embeddings=size.length,
        attn_implementation="sdpa",
    )
    model = Olmo2ForCausalLM(config).train()
    with np.load(Path(inputs) / "weights.npz") as weights:
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    return model


def make_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """As `anchortrain.optimizer` groups parameters. Fused: on CPU the fastest of PyTorch's."""
    decayed = {name for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if (name in decayed) == decay],
            "weight_decay": OPTIMIZER["weight_decay"] * decay,
        }
        for decay in (True, False)
    ]
    return torch.optim.AdamW(groups, OPTIMIZER["learning_rate"], (0.9, 0.95), 1e-8, fused=True)


def main(size_name: str, inputs: str, mode: str) -> None:
    size = SIZES[size_name]
    model = load_model(size, inputs)
    optimizer = make_optimizer(model)
    batch = read_batch(inputs)
    tokens, targets = (torch.from_numpy(batch[name]).long() for name in ("inputs", "targets"))
    forward = torch.compile(model) if mode == "compile" else model
    loss = None

    def step() -> None:
        nonlocal loss
        logits = forward(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()

    def told() -> float:
        return float(loss.detach())

    # The learning rate of the other side's first step is 0: there the warm-up begins.
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step()
    for group in optimizer.param_groups:
        group["lr"] = OPTIMIZER["learning_rate"]
    serve({"first_loss": told(), "version": torch.__version__, "threads": torch.get_num_threads()}, step, told)


if __name__ == "__main__":
    main(*sys.argv[1:])
