"""A run directory for a model that nobody trained."""

from pathlib import Path

from anchortrain import experiment as experiments
from anchortrain.checkpoint import CONFIG, CheckpointStore, RunInfo, copy_vocabulary
from anchortrain.config import CheckpointConfig
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.model.parameters import params_of
from anchortrain.model.transformer import Transformer


def write_run(path: Path, model: Transformer, vocabulary: Vocabulary, keys: tuple[str, ...]) -> Path:
    """A run as training leaves it, with one checkpoint."""
    config = model.config
    names = ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")
    experiment = experiments.load([], [f"ModelConfig.{name} = {getattr(config, name)}" for name in names])
    path.mkdir(parents=True)
    copy_vocabulary(vocabulary, path)
    RunInfo(vocabulary.hash, vocabulary.size, vocabulary.file_name, list(keys), 64).write(path)
    experiments.save_json(experiment, path / CONFIG)
    with CheckpointStore(path, CheckpointConfig(keep=1)) as store:
        store.save(1, {"params": params_of(model)}, {})
    return path
