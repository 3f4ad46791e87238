"""The offline annotator: tags from counting, word lists and a topic model fitted on the corpus; needs no network."""

from anchortrain.annotate.offline.annotator import OfflineAnnotator
from anchortrain.annotate.offline.fitting import fit

__all__ = ["OfflineAnnotator", "fit"]
