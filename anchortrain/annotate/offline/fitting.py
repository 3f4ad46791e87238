"""Fitting the offline annotator on a sample of the corpus."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anchortrain.annotate.config import OfflineConfig
from anchortrain.annotate.offline.entities import character_nouns
from anchortrain.annotate.offline.extractors import extractor_names
from anchortrain.annotate.offline.lexicons import word_set
from anchortrain.annotate.offline.model import Model, save
from anchortrain.annotate.offline.places import city_populations
from anchortrain.annotate.offline.reading import Reading
from anchortrain.annotate.offline.topics import fit_topics, number_of_topics
from anchortrain.annotate.offline.vocabulary import make_vocabulary
from anchortrain.annotate.offline.words import CaseCounts
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import Schema

_MOST_WORDS = 60_000  # of the names, and of the plain words: what a large sample adds beyond are rarities


def fit(sample: Sequence[Passage], schema: Schema, config: OfflineConfig, seed: int, directory: Path) -> None:
    """Learns topics, names and plain words from `sample`; writes them below `directory`, whole or not at all.

    Args:
      sample: passages of the corpus; any number, also none.
      schema: the tags that are wanted; without topics among them no topic model is fitted.
      config: sizes.
      seed: of the topic model.
      directory: made if it is absent.

    Raises UserError when the schema asks for nothing that can be found offline, or the model cannot be written.
    """
    wanted = set(extractor_names(schema).values())
    case = CaseCounts(Counter(), Counter(), Counter())
    texts = []  # of each passage only the counts, their words shared, so that a large sample fits into memory
    for passage in sample:
        reading = Reading(passage)
        case.add(reading)
        texts.append({sys.intern(word): count for word, count in reading.counts.items()})
    names = case.names()
    vocabulary = make_vocabulary(texts, names | word_set("names", "given"), most=config.features)
    # Who acts has tags of its own in stories.
    omitted = character_nouns() if "character" in wanted else frozenset()
    if 2 * sum(passage.kind == "code" for passage in sample) > len(sample):
        omitted |= word_set("programs", "words")  # words of languages, not of what programs are for
    left = {i for i, word in enumerate(vocabulary.words) if word not in omitted}
    rows = ({i: x for i, x in vocabulary.weigh(text).items() if i in left} for text in texts if "topic" in wanted)
    topics = fit_topics(rows, vocabulary, count=number_of_topics(len(texts), config.topics), seed=seed)
    cities = city_populations() if wanted & {"location", "setting", "entity", "character"} else {}
    model = Model(
        vocabulary, topics, _frequent(names, case.capital), _frequent(case.plain(), case.lower + case.opening), cities
    )
    save(model, directory)


def _frequent(words: set[str], counts: Counter[str]) -> frozenset[str]:
    return frozenset(sorted(words, key=lambda word: (-counts[word], word))[:_MOST_WORDS])
