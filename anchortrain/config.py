"""The typed configuration of a run: a handful of frozen dataclasses that gin binds.

Every field has a default. `anchortrain.experiment` reads gin files into these and writes them
beside the run; nothing else in the package looks at gin.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """An OLMo-2 style transformer (arXiv 2501.00656). Sizes are in units, not bytes."""

    d_model: int = 64
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 4
    d_ff: int = 192
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False  # the head is the embedding's transpose
    # Tokens that the model can read and write; 0 takes the vocabulary of the data. `anchortrain plan` needs it, having
    # no data; a run checks it against its data.
    vocabulary_size: int = 0
    compute_dtype: str = "float32"  # or "bfloat16"; parameters are always float32
    # What of a layer is kept for the backward pass; the rest is computed again (see `model.remat`), from most memory to
    # least: "none" keeps all, "dots" every matrix product, "attention" what attention needs, "full" only the input.
    remat: str = "none"
    # "reference", "splash" (TPU), "cudnn" (GPU); "auto" takes the one made for the device.
    attention: str = "auto"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained on. Paths are directories made by `anchortrain prepare` (or `draw`)."""

    # Prepared directory -> share of the training tokens; shares are normalised.
    train: dict[str, float] = dataclasses.field(default_factory=dict)
    # Name in the metrics -> prepared directory, evaluated by role.
    heldout: dict[str, str] = dataclasses.field(default_factory=dict)
    # Row length in tokens and rows in the global batch.
    length: int = 128
    batch_rows: int = 8
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The post-training objective. Prepared *documents* always train with "pretrain"."""

    objective: str = "masked"  # for prepared instructions: "masked" or "unmasked"
    syntax_share: float = 0.003  # of examples, under "masked" (paper, section 3)
    anchor_weight: float = 0.0  # lambda; 0 switches the anchor off
    # Nats per annotation. Above 0 lambda, which begins as anchor_weight, is adapted at each step to hold the anchor's
    # divergence near it; see `anchor_control`.
    anchor_target: float = 0.0
    # KL(ref || model); "reverse" is KL(model || ref), "js" the Jensen-Shannon divergence.
    anchor_direction: str = "forward"
    # Run directory of the reference; "" takes the run that training starts from, RunConfig.init_from.
    anchor_run: str = ""
    # "draws": rows drawn from the reference (anchor_data); "data": the training data's own annotations.
    anchor_source: str = "draws"
    anchor_data: str = ""  # prepared directory made by `anchortrain draw`; for anchor_source = "draws"
    anchor_rows: int = 4  # rows of `length` tokens of the anchor batch, beside batch_rows
    # "online": the reference model's distributions, computed in each step; "stored": those that `anchortrain draw
    # --top_k` wrote beside the draws (top-k and the remaining mass), so that no second model is in memory.
    anchor_reference: str = "online"
    z_loss: float = 0.0

    @property
    def anchors_online(self) -> bool:
        """Whether each step runs the reference model."""
        return self.anchor_weight > 0 and self.anchor_reference == "online"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon with a warm-up and a decay to zero."""

    name: str = "adamw"  # or "muon"
    learning_rate: float = 3e-4
    schedule: str = "cosine"  # or "wsd": constant, then linear to zero in the last decay_share, or "constant"
    warmup_share: float = 0.02  # of all steps
    decay_share: float = 0.2  # of all steps, for "wsd"
    final_share: float = 0.0  # of the peak learning rate, at the end
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices only, never on norms and embeddings
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one of them may be -1: whatever is left.

    `data` replicates parameters, `fsdp` shards them and the optimizer's state, `sequence` cuts rows into pieces (for
    long rows), `tensor` cuts heads, MLP and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    slices: int = 1  # TPU slices, joined by the data-centre network; divides `data`, which alone crosses it


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 500
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    every_steps: int = 250
    batches: int = 8  # of held-out rows, per data set


@dataclasses.dataclass(frozen=True)
class RunConfig:
    tokens: int = 1_000_000  # budget in batch tokens: steps = ceil(tokens / (length x batch_rows))
    accumulation: int = 1  # microbatches per step; divides batch_rows (and anchor_rows)
    seed: int = 0  # of the initial parameters
    # Run directory whose last checkpoint gives the initial parameters; also the reference's, see LossConfig.anchor_run.
    init_from: str = ""
    log_every: int = 10
    compiler_profile: str = ""  # named XLA options for a TPU generation, see `compiler.PROFILES`; "" sets none


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that defines a run."""

    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig
    run: RunConfig


def padded_vocabulary(size: int) -> int:
    """Rows of embedding and head: a multiple of 128, so that they divide over a mesh and a TPU's vector lanes."""
    return -(-size // 128) * 128
