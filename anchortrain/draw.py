"""Reference draws: annotations that the frozen reference writes for training prompts, made once and stored.

With annotations drawn from R_ref(.|x), the anchor of `loss.anchor_term` is an unbiased estimate of
KL(R_ref(.|x) || R(.|x)), by the chain rule over annotation tokens. They are stored as an ordinary prepared
directory of kind "draws" (prompt and annotation, no response), so that the loader packs and mixes them like
any other data.
"""

from pathlib import Path

import numpy as np

from anchortrain.checkpoint import load_run
from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.prepared import Example, Manifest, PreparedDataset, PreparedWriter
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.sampler import Draw, SamplingConfig, draw_annotations
from anchortrain.decode.samples import read_tags
from anchortrain.errors import UserError
from anchortrain.progress import Progress
from anchortrain.roles import Role


def draw(
    run_dir: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    count: int,
    seed: int = 0,
    max_annotation_tokens: int = 64,
) -> Manifest:
    """Draws `count` annotations at temperature 1, cycling over the prompts of a prepared data set.

    A draw that does not close within `max_annotation_tokens` cannot be scored whole and is left out; the
    manifest's notes count those as "unclosed" and the malformed ones that are kept as "malformed".

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
    return _write(dataset, drawn, out, run_dir)


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


def _write(dataset: PreparedDataset, drawn: list[Draw], out: str | Path, run_dir: str | Path) -> Manifest:
    closed = [one for one in drawn if one.closed]
    if not closed:
        raise UserError(
            f"none of {len(drawn)} drawn annotations closed",
            where=str(run_dir),
            mend="use a reference that was pretrained on annotated documents",
        )
    vocabulary = dataset.vocabulary
    with PreparedWriter(
        out,
        kind="draws",
        annotated=True,
        vocabulary=vocabulary,
        max_length=max(len(one.tokens) for one in closed),
        sources=dataset.manifest.sources,
    ) as writer:
        for i, one in enumerate(closed):
            example = Example(np.array(one.tokens, np.int32), np.array(one.roles, np.uint8), f"draw-{i:06d}")
            writer.add(example, _keys(one, vocabulary))
        malformed = sum(not one.wellformed for one in closed)
        return writer.finish(reference=str(run_dir), unclosed=len(drawn) - len(closed), malformed=malformed)


def _keys(one: Draw, vocabulary: Vocabulary) -> list[str]:
    """Keys of a well-formed draw's tags."""
    pairs = [(t, r) for t, r in zip(one.tokens, one.roles, strict=True) if r != Role.PROMPT]
    return [tag.key for tag in read_tags(pairs, vocabulary) or ()] if one.wellformed else []
