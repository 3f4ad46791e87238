"""The checker "likelihood": how probable a response is, given prompt and plan, under a run that is trusted.

Shapes: B rows, L length, D width, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from anchortrain.checkpoint import load_run
from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.packing import Placed, pack
from anchortrain.data.prepared import Example
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.progress import Progress
from anchortrain.rehearsal.checker import Row, Verdict
from anchortrain.rehearsal.config import RehearsalConfig
from anchortrain.roles import Role

_ROWS, _LENGTH_STEP = 32, 64


class Likelihood:
    """Rejects the `likelihood_quantile` of responses with the least mean log-probability of a token, and those below
    `least_logprob`."""

    def __init__(self, reference: str, config: RehearsalConfig) -> None:
        if not reference:
            mend = "name a run: the base, or one after standard post-training"
            raise UserError("the checker 'likelihood' needs a run", where="RehearsalConfig.reference", mend=mend)
        self._run = load_run(reference)
        self._means = _mean_log_probs(self._run.model)
        # Decided by the first responses: those written again are held to the same.
        self._bound: float | None = None
        self._quantile, self._least = config.likelihood_quantile, config.least_logprob

    def check(self, rows: Sequence[Row]) -> list[Verdict]:
        if not rows:
            return []
        means = self.log_probs(rows)
        if self._bound is None:
            self._bound = float(np.quantile(means, self._quantile)) if self._quantile else -math.inf
            if self._least:
                self._bound = max(self._bound, self._least)
        return [Verdict(mean >= self._bound, "" if mean >= self._bound else "unlikely", mean) for mean in means]

    def log_probs(self, rows: Sequence[Row]) -> list[float]:
        """The mean log-probability, nats a token, of each response and its `<eos>`."""
        examples = [self._example(row) for row in rows]
        longest = max(len(example.tokens) for example in examples)
        length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        means: list[float] = []
        with Progress(len(examples), unit="responses", label="likelihood") as progress:
            for start in range(0, len(examples), _ROWS):
                some = examples[start : start + _ROWS]
                placed = [[Placed(one, "masked", False, 0)] for one in some] + [[]] * (_ROWS - len(some))
                batch = pack(placed, length=length, bos=self._run.vocabulary.bos, pad=self._run.vocabulary.pad)
                names = ("inputs", "positions", "segment_ids", "targets", "loss_weights")
                means += np.asarray(self._means(*(batch[name] for name in names)))[: len(some)].tolist()
                progress.update(len(some))
        return means

    def _example(self, row: Row) -> Example:
        """The sample as it was drawn, as an example. Weights of "masked" are 1 on its response."""
        vocabulary = self._run.vocabulary
        prompt = [vocabulary.user, *vocabulary.encode(row["prompt"]), vocabulary.assistant]
        prompt += vocabulary.encode(PROMPT_END)
        tokens, roles = [*prompt, *row["tokens"]], [int(Role.PROMPT)] * len(prompt) + list(row["roles"])
        return Example(np.array(tokens, np.int32), np.array(roles, np.uint8), "")

    def close(self) -> None:
        """Nothing to end."""


def _mean_log_probs(model: Transformer) -> Callable[..., jax.Array]:
    """The compiled function from packed arrays, each [B, L], to the weighted mean log-probability of targets [B]."""

    @jax.jit
    def means(inputs_BL, positions_BL, segments_BL, targets_BL, weights_BL) -> jax.Array:
        hidden_BLD = model.hidden(inputs_BL, positions_BL, segments_BL)

        # Row by row: logits of all would be the largest array by far.
        def row(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            hidden_LD, targets_L, weights_L = arrays
            log_probs_LV = jax.nn.log_softmax(model.logits(hidden_LD))
            chosen_L = jnp.take_along_axis(log_probs_LV, targets_L[:, None], axis=1)[:, 0]
            return jnp.sum(chosen_L * weights_L) / jnp.maximum(jnp.sum(weights_L), 1)

        return jax.lax.map(row, (hidden_BLD, targets_BL, weights_BL))

    return means
