"""Annotators by name, joined, and asked only for what suits."""

import pytest

from anchortrain.annotate import annotators
from anchortrain.annotate.config import Annotating
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Key, Schema
from anchortrain.annotation import Tag
from anchortrain.config_reader import build
from anchortrain.errors import UserError
from anchortrain.gin_reader import Bound

SCHEMA = Schema("mine", "", (Key("topic"), Key("tone")), suits=("prose",))
PASSAGES = [Passage(text, "", kind, "r", i, {}) for i, (text, kind) in enumerate([("a", "prose"), ("b", "code")])]


def annotating(name, **labels):
    bound = {"AnnotateConfig.annotator": Bound(name, "test")}
    return build(Annotating, bound | {f"LabelsConfig.{key}": Bound(value, "test") for key, value in labels.items()})


class Fake:
    def __init__(self, answers):
        self.answers, self.asked, self.closed = answers, [], False

    def annotate(self, passages):
        self.asked.append([passage.text for passage in passages])
        return self.answers[: len(passages)]

    def close(self):
        self.closed = True


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """fakes(offline=…, llm=…) -> the two together, and each."""

    def make(**answers):
        from anchortrain.annotate import llm, offline

        made = {name: Fake(value) for name, value in answers.items()}
        monkeypatch.setattr(offline, "OfflineAnnotator", lambda directory, schema: made["offline"])
        monkeypatch.setattr(llm, "LlmAnnotator", lambda config, schema, directory: made["llm"])
        return annotators.open_annotator(annotating("+".join(made)), SCHEMA, tmp_path), made

    return make


def test_tags_of_several_are_joined_in_the_order_of_the_schema(fakes):
    offline = [Answer((Tag("tone", "sad"), Tag("other", "x"), Tag("topic", "sea")))]
    llm = [Answer((Tag("tone", "glad"), Tag("tone", "sad"), Tag("other", "y")))]
    annotator, made = fakes(offline=offline, llm=llm)
    first, second = annotator.annotate(PASSAGES)
    joined = [("topic", "sea"), ("tone", "sad"), ("tone", "glad"), ("other", "x"), ("other", "y")]
    assert first == Answer(tuple(Tag(*one) for one in joined))
    assert second == Answer(None)
    assert made["offline"].asked == made["llm"].asked == [["a"]]  # code does not suit
    annotator.close()
    assert made["offline"].closed and made["llm"].closed


@pytest.mark.parametrize(
    ("offline", "llm", "joined"),
    [
        (Answer(()), Answer(None), Answer(())),
        (Answer(None), Answer(None), Answer(None)),
        (Answer((Tag("tone", "sad"),)), Answer(None, "no"), Answer(None, "no")),
        (Answer(None), Answer((Tag("tone", "sad"),)), Answer((Tag("tone", "sad"),))),
    ],
)
def test_joined_answers(fakes, offline, llm, joined):
    annotator, _ = fakes(offline=[offline], llm=[llm])
    assert annotator.annotate(PASSAGES[:1]) == [joined]


def test_labels_do_not_ask_what_suits(tmp_path):
    annotator = annotators.open_annotator(annotating("labels", fields={"genre": "genre"}), SCHEMA, tmp_path)
    passages = [one._replace(fields={"genre": "fable"}) for one in PASSAGES]
    assert annotator.annotate(passages) == [Answer((Tag("genre", "fable"),))] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ofline", "unknown annotator 'ofline'; did you mean 'offline'?"),
        ("", "unknown annotator ''"),
        ("llm+", "unknown annotator ''"),
        ("labels+labels", "annotator 'labels+labels' names one twice"),
        ("labels", "the labels annotator has neither fields nor a table"),
        ("offline+llm", "LlmConfig.endpoint: no endpoint; give one"),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(UserError) as caught:
        annotators.check(annotating(name))
    assert str(caught.value).startswith(message)


def test_what_decides_the_answers_is_described(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"id": "r", "key": "a", "value": "b"}\n')
    both = annotating("labels+offline", table=str(tmp_path / "t.jsonl"))
    before = annotators.describe(both, SCHEMA)
    assert list(before) == ["labels", "offline"] and before["offline"]["features"] == 20_000
    (tmp_path / "t.jsonl").write_text('{"id": "r", "key": "a", "value": "c"}\n')
    assert annotators.describe(both, SCHEMA)["labels"] != before["labels"]
