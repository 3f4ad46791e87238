"""Which extractor finds the values of which key."""

from collections.abc import Callable, Iterable

from anchortrain.annotate.offline import style, times
from anchortrain.annotate.offline.cues import Cues, Domains
from anchortrain.annotate.offline.entities import Entities
from anchortrain.annotate.offline.keywords import rank_keywords
from anchortrain.annotate.offline.languages import language
from anchortrain.annotate.offline.mathematics import has_unknowns, operations
from anchortrain.annotate.offline.model import Model
from anchortrain.annotate.offline.places import Places, common_places
from anchortrain.annotate.offline.reading import Reading
from anchortrain.annotate.offline.sentiment import sentiment
from anchortrain.annotate.schema import Key, Schema
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

Extractor = Callable[[Reading], Iterable[str]]

# What each extractor finds; schemas name them in `offline`.
NAMES = {
    "topic": "the topic of the fitted model",
    "keyword": "words by which the passage differs from others, and that no other tag has",
    "entity": "names",
    "character": "names, or what actors are called",
    "location": "named places",
    "setting": "named places, or common ones",
    "period": "decades and centuries",
    "time": "periods, seasons, times of day",
    "sentiment": "positive, negative, mixed, neutral",
    "language": "the natural language",
    "style": "how general text is written",
    "story_style": "how a story is written",
    "form": "the form of a response",
    "domain": "the field of general text",
    "operation": "operations of a calculation",
    "field": "the part of mathematics: cues, else by the looks",
    "cues": "the key's own cues",
}
_SPARE = 1  # values beyond what a key takes, for those that fall to the schema's rules


def extractor_names(schema: Schema) -> dict[str, str]:
    """Key -> extractor. A key that names none and is called like none is left to other annotators.

    Raises UserError for an unknown extractor, and when no key has one.
    """
    found = {}
    for key in schema.keys:
        name = key.offline or key.name
        if name in NAMES:
            found[key.name] = name
        elif key.offline:
            mend = suggest(name, NAMES)
            raise UserError(f"unknown extractor {name!r} of the key {key.name!r}", where=schema.name, mend=mend)
    if not found:
        mend = f"give a key cues, or offline = one of {', '.join(NAMES)}"
        raise UserError("the offline annotator finds values for none of the keys", where=schema.name, mend=mend)
    return found


class Extractors:
    """All that a schema asks for, made once."""

    def __init__(self, schema: Schema, model: Model) -> None:
        self._schema = schema
        self._model = model
        names = extractor_names(schema)
        self._by_name = self._make()
        keywords = {key for key, name in names.items() if name == "keyword"}
        self._plain = {key: self._open(name, key) for key, name in names.items() if key not in keywords}
        self._keywords = keywords

    def _make(self) -> dict[str, Extractor]:
        model = self._model
        places = Places(model.cities, model)
        entities = Entities(model, places)
        return {
            "topic": lambda reading: model.topics.rank(model.vocabulary.weights(reading)),
            "entity": lambda reading: [one.name for one in entities.names(reading)],
            "character": entities.characters,
            "location": places.named,
            "setting": lambda reading: places.named(reading, least=1.0) + common_places(reading),
            "period": times.period,
            "time": times.story_time,
            "sentiment": sentiment,
            "language": language,
            "style": style.page_style,
            "story_style": style.story_style,
            "form": style.form,
            "operation": operations,
        }

    def _open(self, name: str, key: str) -> Extractor:
        if name == "domain":
            return Domains().rank
        if name in ("cues", "field"):
            cues = Cues(self._key(key).cues)
            return cues.rank if name == "cues" else lambda reading: cues.rank(reading) + _default_field(reading)
        return self._by_name[name]

    def _key(self, name: str) -> Key:
        return next(key for key in self._schema.keys if key.name == name)

    def find(self, reading: Reading) -> dict[str, list[str]]:
        """Key -> values of a passage, best first, for `Schema.annotation`."""
        suited = {key.name: key for key in self._schema.keys_for(reading.passage.kind)}
        found = {
            key: list(find(reading))[: suited[key].most + _SPARE] for key, find in self._plain.items() if key in suited
        }
        if asked := self._keywords & suited.keys():
            taken = self._said(found, suited, reading)
            weights = self._model.vocabulary.weights(reading)
            for key in sorted(asked):
                most = suited[key].most + _SPARE
                found[key] = rank_keywords(weights, self._model.vocabulary, taken, most=most)
        return found

    def _said(self, found: dict[str, list[str]], suited: dict[str, Key], reading: Reading) -> set[str]:
        """The words of the tags so far, and of all names."""
        values = [value for key, many in found.items() for value in many[: suited[key].most]]
        names = {word.lower() for run in reading.runs if not run.opens for word in run.words}
        return {word.lower() for value in values for word in value.split()} | names


def _default_field(reading: Reading) -> list[str]:
    if has_unknowns(reading):
        return ["algebra"]
    return ["arithmetic"] if operations(reading) else []
