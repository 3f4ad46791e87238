"""Held-out data: read once, measured by role, the same on every process."""

from typing import Any

import jax
import jax.numpy as jnp

from anchortrain import loss as losses
from anchortrain import train_step as steps
from anchortrain.config import Experiment
from anchortrain.data.loader import make_eval_batches
from anchortrain.data.prepared import PreparedDataset
from anchortrain.errors import UserError
from anchortrain.model.parameters import Params
from anchortrain.model.transformer import Transformer
from anchortrain.training.feeding import Feed
from anchortrain.training.setup import drift_is_stored


class Heldout:
    """The held-out sets of an experiment, on the devices."""

    def __init__(
        self,
        e: Experiment,
        datasets: dict[str, PreparedDataset],
        abstract: Transformer,
        reference: Params | None,
        feed: Feed,
    ) -> None:
        """Reads them. Raises UserError when draws are among them and there is no reference to compare with."""
        self._measure = steps.make_evaluate_step(abstract)
        self._drift = steps.make_drift_step(abstract)
        self._sets: dict[str, tuple[str, Params | None, list[dict[str, jax.Array]]]] = {}
        for name, path in e.data.heldout.items():
            manifest = datasets[path].manifest
            kind, stored = manifest.kind, drift_is_stored(e, manifest)
            if kind == "draws" and reference is None and not stored:
                raise UserError(
                    "drift on draws needs a reference",
                    where=f"DataConfig.heldout[{name!r}]",
                    mend="set RunConfig.init_from, or LossConfig.anchor_run",
                )
            batches = make_eval_batches(
                path,
                length=e.data.length,
                batch_rows=e.data.batch_rows,
                batches=e.evaluate.batches,
                objective=e.loss.objective,
                stored=stored,
                **feed.share,
            )
            # Where distributions are stored no model is asked, even if there is one.
            against = None if stored else reference
            self._sets[name] = kind, against, [feed(batch) for batch in batches]

    def evaluate(self, params: Params) -> dict[str, float]:
        """Metrics by role: `heldout/NAME/loss/text` and so on.

        Draws give the drift KL(R_ref || R) in nats per annotation: its mean `heldout/NAME/kl` with the standard error
        over annotations, `kl_se`; against stored distributions also `kl_bound`, the most that these miss on average.
        """
        results = {}
        for name, (kind, reference, batches) in self._sets.items():
            totals = None
            for batch in batches:
                if kind == "draws":
                    metrics = self._drift(params, reference, batch)
                else:
                    metrics = self._measure(params, batch)
                totals = paced(metrics if totals is None else jax.tree.map(jnp.add, totals, metrics))
            terms = {metric: losses.Term(*term) for metric, term in jax.device_get(totals).items() if term[1]}
            values = {metric: losses.mean(term) for metric, term in terms.items() if metric != "kl_square"}
            if "kl" in terms and terms["kl"].weight > 1:
                values["kl_se"] = losses.standard_error(terms["kl"], terms["kl_square"])
            results |= {f"heldout/{name}/{metric}": value for metric, value in values.items()}
        return results


def paced(results: Any) -> Any:
    """`results`, computed first where several CPU devices are simulated: they share a few threads, and programs
    that overlap can starve each other's collectives, which ends the process."""
    simulated = jax.device_count() > 1 and jax.default_backend() == "cpu"
    return jax.block_until_ready(results) if simulated else results
