"""What fitting leaves behind: one file, a .npz that is read without pickle."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from anchortrain.annotate.offline.topics import Topics
from anchortrain.annotate.offline.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.files import write_bytes_atomic

MODEL_FILE = "offline.npz"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Model:
    """Everything that the extractors take from the corpus."""

    vocabulary: Vocabulary
    topics: Topics
    names: frozenset[str]  # words that the corpus hardly ever writes small, in lower case
    plain: frozenset[str]  # words that it mostly writes small
    cities: dict[str, int]  # name -> population


def save(model: Model, directory: Path) -> None:
    """Writes `directory/offline.npz`, whole or not at all. Raises UserError when it cannot."""
    import numpy as np

    words = {
        "format": _FORMAT,
        "vocabulary": model.vocabulary.words,
        "idf": model.vocabulary.idf,
        "index": model.vocabulary.index,
        "topics": model.topics.names,
        "signatures": model.topics.signatures,
        "names": sorted(model.names),
        "plain": sorted(model.plain),
        "cities": model.cities,
    }
    file = io.BytesIO()
    content = np.frombuffer(json.dumps(words).encode(), np.uint8)
    np.savez_compressed(file, words=content, projection=model.topics.projection)
    write_bytes_atomic(directory / MODEL_FILE, file.getvalue())


def load(directory: Path) -> Model:
    """Reads what `save` wrote. Raises UserError when the file is absent or damaged."""
    import numpy as np

    path = directory / MODEL_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words: dict[str, Any] = json.loads(arrays["words"].tobytes())
            return _model(words, arrays["projection"])
    except FileNotFoundError:
        raise UserError("no fitted offline annotator", where=str(path), mend="fit it first") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        mend = "remove it and fit the annotator again"
        raise UserError(f"damaged model of the offline annotator: {error}", where=str(path), mend=mend) from None


def _model(words: dict[str, Any], projection: Any) -> Model:
    if words["format"] != _FORMAT:
        raise ValueError(f"format {words['format']}, expected {_FORMAT}")
    vocabulary = Vocabulary(tuple(words["vocabulary"]), tuple(words["idf"]), words["index"])
    topics = Topics(tuple(words["topics"]), tuple(map(tuple, words["signatures"])), projection)
    if projection.shape != (len(vocabulary.words), len(topics.names)):
        raise ValueError(f"projection of shape {projection.shape}")
    return Model(vocabulary, topics, frozenset(words["names"]), frozenset(words["plain"]), words["cities"])
