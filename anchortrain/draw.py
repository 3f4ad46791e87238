"""Reference draws: annotations that the frozen reference writes for training prompts, made once and stored.

With annotations drawn from R_ref(.|x), the anchor of `loss.anchor_term` is an unbiased estimate of
KL(R_ref(.|x) || R(.|x)), by the chain rule over annotation tokens. They are stored as an ordinary prepared
directory of kind "draws" (prompt and annotation, no response), so that the loader packs and mixes them like
any other data.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchortrain.checkpoint import fingerprint, load_run
from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.packing import Placed, pack
from anchortrain.data.prepared import Example, Manifest, PreparedDataset, PreparedWriter, TopK
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.sampler import Draw, SamplingConfig, draw_annotations
from anchortrain.decode.samples import read_tags
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.progress import Progress
from anchortrain.roles import Role

_ROWS, _LENGTH_STEP = 32, 64  # of the batches in which the reference's distributions are computed


def draw(
    run_dir: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    count: int,
    seed: int = 0,
    max_annotation_tokens: int = 64,
    top_k: int = 32,
) -> Manifest:
    """Draws `count` annotations at temperature 1, cycling over the prompts of a prepared data set.

    A draw that does not close within `max_annotation_tokens` cannot be scored whole and is left out; the
    manifest's notes count those as "unclosed" and the malformed ones that are kept as "malformed".

    With `top_k` the reference's distributions at each annotation position are stored with them: the most probable
    tokens; the note "stored_mass" says how much probability these hold on average. What is left is the factor of the
    bound on what a divergence over these tokens misses (`divergence.StoredDivergenceWithBound`).

    Raises:
      UserError: when the run or the data cannot be used, or no draw closes.
    """
    dataset = PreparedDataset(data)
    if dataset.manifest.kind != "instructions":
        raise UserError(
            f"holds {dataset.manifest.kind}, which have no prompts",
            where=str(data),
            mend="name instructions made by `anchortrain prepare --kind instructions`",
        )
    if count < 1:
        raise UserError(f"the number of draws must be at least 1, got {count}", where="--draws")
    if top_k < 0:
        raise UserError(f"must be 0 or more, got {top_k}", where="--top_k")
    loaded = load_run(run_dir)
    if loaded.vocabulary.hash != dataset.manifest.vocabulary_hash:
        raise UserError(
            f"was prepared with another vocabulary than {run_dir}",
            where=str(data),
            mend=f"prepare it with --tokenizer {loaded.vocabulary.path}",
        )
    prompts = _prompts(dataset, count)
    config = SamplingConfig(max_annotation_tokens=max_annotation_tokens)
    with Progress(count, unit="draws", label="draw") as progress:
        drawn = draw_annotations(
            loaded.model,
            loaded.vocabulary,
            prompts,
            config,
            keys=loaded.info.annotation_keys,
            seed=seed,
            progress=progress.update,
        )
    closed = [one for one in drawn if one.closed]
    if not closed:
        raise UserError(
            f"none of {len(drawn)} drawn annotations closed",
            where=str(run_dir),
            mend="use a reference that was pretrained on annotated documents",
        )
    examples = [
        Example(np.array(one.tokens, np.int32), np.array(one.roles, np.uint8), f"draw-{i:06d}")
        for i, one in enumerate(closed)
    ]
    notes = {"reference": str(run_dir), "reference_fingerprint": fingerprint(Path(run_dir))}
    notes["unclosed"] = len(drawn) - len(closed)
    notes["malformed"] = sum(not one.wellformed for one in closed)
    if top_k:
        columns = min(top_k, loaded.vocabulary.size)
        examples = with_distributions(loaded.model, loaded.vocabulary, examples, columns)
        masses = [np.exp(example.reference.log_probs).sum(axis=1) for example in examples]
        notes["stored_mass"] = float(np.concatenate(masses).mean())
    return _write(dataset, closed, examples, out, notes)


def with_distributions(
    model: Transformer, vocabulary: Vocabulary, examples: list[Example], top_k: int
) -> list[Example]:
    """The examples with the model's `top_k` most probable tokens at each of the anchor's positions."""
    longest = max(len(example.tokens) for example in examples)
    length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP

    @jax.jit
    def distributions(inputs_BL: jax.Array, positions_BL: jax.Array, segments_BL: jax.Array) -> tuple:
        hidden_BLD = model.hidden(inputs_BL, positions_BL, segments_BL)

        # Row by row: logits of all would be the largest array by far.
        def row(hidden_LD: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.lax.top_k(jax.nn.log_softmax(model.logits(hidden_LD)), top_k)

        return jax.lax.map(row, hidden_BLD)

    found = []
    with Progress(len(examples), unit="annotations", label="reference") as progress:
        for start in range(0, len(examples), _ROWS):
            some = examples[start : start + _ROWS]
            rows = [[Placed(example, "anchor", False, 0)] for example in some] + [[]] * (_ROWS - len(some))
            batch = pack(rows, length=length, bos=vocabulary.bos, pad=vocabulary.pad)
            keys = ("inputs", "positions", "segment_ids")
            log_probs_BLk, ids_BLk = jax.device_get(distributions(*(batch[key] for key in keys)))
            for example, at_L, ids_Lk, log_probs_Lk in zip(
                some, batch["anchor_positions"] > 0, ids_BLk, log_probs_BLk, strict=False
            ):
                found.append(example._replace(reference=TopK(ids_Lk[at_L], log_probs_Lk[at_L])))
            progress.update(len(some))
    return found


def _prompts(dataset: PreparedDataset, count: int) -> list[str]:
    """`count` prompts spread evenly over the data set, again from the start when it is smaller."""
    stride = max(1, len(dataset) // count)
    wanted = [(i * stride) % len(dataset) for i in range(count)]
    control = dataset.vocabulary.control_ids
    found = []
    for example in dataset.__getitems__(wanted):
        prompt = example.tokens[example.roles == Role.PROMPT]
        text = dataset.vocabulary.decode([t for t in prompt.tolist() if t not in control])
        found.append(text.removesuffix(PROMPT_END))
    return found


def _write(
    dataset: PreparedDataset, drawn: list[Draw], examples: list[Example], out: str | Path, notes: dict[str, Any]
) -> Manifest:
    reference = examples[0].reference
    with PreparedWriter(
        out,
        kind="draws",
        annotated=True,
        vocabulary=dataset.vocabulary,
        max_length=max(len(example.tokens) for example in examples),
        sources=dataset.manifest.sources,
        stored_top_k=0 if reference is None else reference.ids.shape[1],
    ) as writer:
        for one, example in zip(drawn, examples, strict=True):
            writer.add(example, _keys(one, dataset.vocabulary))
        return writer.finish(**notes)


def _keys(one: Draw, vocabulary: Vocabulary) -> list[str]:
    """Keys of a well-formed draw's tags."""
    pairs = [(t, r) for t, r in zip(one.tokens, one.roles, strict=True) if r != Role.PROMPT]
    return [tag.key for tag in read_tags(pairs, vocabulary) or ()] if one.wellformed else []
