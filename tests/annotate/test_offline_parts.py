"""The extractors of the offline annotator, one by one, on sentences that have gone wrong or could."""

import pytest

from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.offline import style, times
from anchortrain.annotate.offline.cues import Cues, Domains
from anchortrain.annotate.offline.entities import Entities
from anchortrain.annotate.offline.keywords import rank_keywords
from anchortrain.annotate.offline.languages import language
from anchortrain.annotate.offline.lexicons import lexicon
from anchortrain.annotate.offline.mathematics import operations
from anchortrain.annotate.offline.model import Model
from anchortrain.annotate.offline.places import Places, city_populations, common_places
from anchortrain.annotate.offline.reading import Reading
from anchortrain.annotate.offline.sentiment import sentiment, valences
from anchortrain.annotate.offline.topics import Topics, number_of_topics
from anchortrain.annotate.offline.vocabulary import Vocabulary, make_vocabulary
from anchortrain.annotate.offline.words import base_forms, is_content
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema


def reading(text, before="", kind=None):
    return Reading(Passage(text, before, kind or chunk_type(text), "r", 0, {}))


@pytest.fixture(scope="module")
def model():
    empty = Vocabulary((), (), {})
    plain = frozenset("nice reading committee fox".split())
    return Model(empty, Topics((), (), None), frozenset({"ulrich"}), plain, city_populations())


@pytest.fixture(scope="module")
def places(model):
    return Places(model.cities, model)


@pytest.fixture(scope="module")
def entities(model, places):
    return Entities(model, places)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Mr. Holmes looked up. “Come!” said Sherlock Holmes to Watson. Holmes rose.", ["Sherlock Holmes", "Watson"]),
        ("However, Yesterday was fine. Nobody came. The dog barked.", []),
        ("He told Mary's brother that Mary was ill.", ["Mary"]),
        ("Ulrich laughed. Then he slept.", ["Ulrich"]),
        ("On Monday in May the English met the Committee in Paris.", []),
        ("THE KING SHOUTED AT JOHN AND THE QUEEN OF HEARTS", []),
        ("the king shouted at john and at mary", []),
        ("He worked for the BBC and the Bank of England.", ["Bank of England", "BBC"]),
        ("Der Hund und die Katze waren nicht in dem Haus mit der Frau.", []),
        ("I said that I'd come. I'm sure I've seen it.", []),
        ("In 1887 J. R. Smith of the U.S. Army met Dr. Who.", ["J. R. Smith", "U.S. Army", "Dr. Who"]),
        ("The New York Times asked the Long Island Railroad.", ["New York Times", "Long Island Railroad"]),
    ],
)
def test_entities(entities, text, names):
    assert [one.name for one in entities.names(reading(text))] == names


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The Fox saw a fox, and the foxes ran to the old king. The King laughed.", "fox"),
        ("There was an old woman. The old woman went home, and the woman slept.", "old woman"),
        ("Cinderella wept. Then the prince saw Cinderella, and Cinderella smiled.", "Cinderella"),
        ("Father Brown went out. “Good,” said Father Brown.", "Father Brown"),
        ("They could bear it no longer, in general, and had to fly and duck.", None),
    ],
)
def test_characters(entities, text, first):
    assert next(iter(entities.characters(reading(text))), None) == first


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He went from London to the United States and back to London.", ["London", "United States"]),
        ("It is an American animated series.", ["United States"]),
        ("What a Nice day for Reading, said Jack London.", []),
        ("They lived in Nice for years.", ["Nice"]),
        ("He came to the U.S. from Boise, Idaho.", ["United States", "Boise", "Idaho"]),
        ("The forces of Victoria and Florence Nightingale.", []),
    ],
)
def test_named_places(places, text, found):
    assert sorted(places.named(reading(text))) == sorted(found)


def test_common_places():
    assert common_places(reading("He ran into the dark forest, and out of the woods to his castle.")) == [
        "forest",
        "castle",
    ]
    assert common_places(reading("Well, he knew the house well, and wood burns.")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He was born in 1941 and died in 1949; she in 1952.", ["1940s", "1950s"]),
        ("In the nineteenth century, and the 19th-century novel.", ["19th century"]),
        ("It cost $1950, had 1984 pages, 1,900 men and the number 1.1998.", []),
        ("The treaty of 1648 was long.", ["17th century"]),
        ("It took 1200 stones.", []),
        ("the 1960s and the twenty-first century", ["1960s", "21st century"]),
    ],
)
def test_periods(text, found):
    assert times.period(reading(text)) == found


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Once upon a time, at night, there was a man.", "long ago"),
        ("It was a cold night in winter.", "winter"),
        ("He drank from the spring in the morning.", "morning"),
        ("You may march on.", None),
        ("They met in May.", "May"),
        ("On Christmas Eve at midnight", "Christmas"),
    ],
)
def test_times_of_stories(text, first):
    assert next(iter(times.story_time(reading(text))), None) == first


@pytest.mark.parametrize(
    ("text", "tone"),
    [
        ("She was happy and laughed with joy; it was a wonderful, lovely day.", "positive"),
        ("They wept bitterly; the cruel murder was a terrible, horrible disaster.", "negative"),
        ("She loved him dearly, yet she hated his cruel and horrible joyful laugh.", "mixed"),
        ("The county lies between two rivers and has 1,200 inhabitants.", "neutral"),
        ("Miss United and Justice Party, like it or please matter.", "neutral"),
    ],
)
def test_sentiment(text, tone):
    assert sentiment(reading(text)) == [tone]


def test_valences_are_those_of_vader():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    for text in ("he was not happy", "it was a very horrible murder", "never so glad", "hardly any joy in it"):
        compound = SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
        total = valences(reading(text))[0] - valences(reading(text))[1]
        assert total / (total * total + 15) ** 0.5 == pytest.approx(compound, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Der Hund und die Katze lebten in einem kleinen Haus am Rande des Waldes.", "German"),
        ("Il était une fois un roi et une reine qui vivaient dans un grand château.", "French"),
        ("昔々、あるところにおじいさんとおばあさんが住んでいました。", "Japanese"),
        ("Жили-были старик со старухой у самого синего моря.", "Russian"),
        ("The man went to the house and saw that it was not there at all.", "English"),
        ("1234 5678", None),
        ("", None),
    ],
)
def test_languages(text, name):
    assert language(reading(text)) == ([name] if name else [])


@pytest.mark.parametrize(
    ("text", "before", "form"),
    [
        ("Dear Sir,\n\nI write to you about the house.\n\nYours sincerely,\nJohn", "", "letter"),
        ("1. Boil the water.\n2. Add the rice.\n3. Wait.", "How to cook rice?", "steps"),
        ("- apples\n- pears\n- plums", "", "list"),
        ("2*3=6 and 6+1=7", "", "calculation"),
        ("Positive", "Is it positive?", "short answer"),
        (
            "A heap is a tree in which each parent is at least as large as its children.",
            "What is a heap?",
            "definition",
        ),
        ("Alice: Who is there?\nBob: It is me.\nAlice: Come in.", "", "dialogue"),
        ("```\nls\n```", "", "code"),
    ],
)
def test_forms(text, before, form):
    assert style.form(reading(text, before)) == [form]


def test_styles_of_stories():
    assert style.story_style(reading("“Is it you?” said he. “Yes, it is me, and I am late.”")) == ["dialogue"]
    assert style.story_style(reading("I took my hat, and my brother and I went to our house.")) == ["first person"]
    assert style.story_style(reading("Rain on the hill,\nand the wind is still", kind="verse")) == ["verse"]
    assert style.story_style(reading("He took his hat and went out, and she saw him.")) == ["narration"]


def test_styles_of_pages():
    assert style.page_style(reading("The river is 30 km long and flows through the county.")) == ["exposition"]
    assert style.page_style(reading("You should first open your browser and enter your name.")) == ["instructions"]
    assert style.page_style(reading("Who was he? Where did he live? Nobody knows.")) == ["questions"]


def test_operations():
    assert operations(reading("5*20=<<5*20=100>>100 and 4 x 3 = 12, so $100 - $12")) == [
        "multiplication",
        "subtraction",
    ]
    assert operations(reading("a well-known and/or story of 1914")) == []
    assert "equations" in operations(reading("3x + 2 = 11\n3x = 9\nx = 3"))


def test_cues():
    cues = Cues({"sea": ["wave", "deep water"], "code": ["print("], "land": ["field"]})
    assert cues.rank(reading("Waves, waves! The deep water and a field.")) == ["sea", "land"]
    assert cues.rank(reading("print(1)")) == ["code"] and cues.rank(reading("printer")) == []


def test_domains_are_those_of_the_schema():
    values = set(load_schema("web").key("domain").values)
    assert set(lexicon("domains")["strong"]) == set(lexicon("domains")["weak"]) == values
    text = "The film, directed by Lee, stars two actors; the sequel was a box-office success."
    assert Domains().rank(reading(text))[0] == "film and television"
    assert Domains().rank(reading("It was there.")) == []


@pytest.mark.parametrize("name", ["stories", "web", "instructions", "mathematics", "code"])
def test_cues_of_the_schemas_are_for_their_values(name):
    for key in load_schema(name).keys:
        assert not key.values or set(key.cues) <= set(key.values)


def test_inflections_are_one_word():
    base = base_forms({"ship": 5, "ships": 9, "stopped": 1, "stop": 2, "flew": 3, "fly": 1, "princess": 2, "prince": 1})
    assert base["ship"] == "ships" and base["stopped"] == "stop" and base["fly"] == "flew"
    assert base["princess"] == "princess" and base["prince"] == "prince"


def test_vocabulary_leaves_out_names_and_rarities():
    readings = [reading(f"A ship sails to {name}'s mill{i}.") for i in range(30) for name in ("Anna", "Otto")]
    vocabulary = make_vocabulary([one.counts for one in readings[:10]], {"anna", "otto"}, most=9)
    assert set(vocabulary.words) == {"ship", "sails"} and vocabulary.index["ship"] == vocabulary.words.index("ship")
    assert not is_content("the") and not is_content("x" * 50) and not is_content("4th")


def test_keywords_leave_to_other_tags_what_they_say():
    vocabulary = Vocabulary(
        ("ship", "mill", "slowly"), (1.0, 2.0, 2.5), {"ship": 0, "ships": 0, "mill": 1, "slowly": 2}
    )
    weights = vocabulary.weights(reading("Ships, ships, a mill, slowly."))
    assert rank_keywords(weights, vocabulary, {"ships"}, most=5) == ["mill", "slowly"]


def test_number_of_topics_grows_with_the_sample():
    assert [number_of_topics(n) for n in (1, 100, 20_000, 10**6)] == [1, 8, 100, 100]
    assert number_of_topics(50, 7) == 7
