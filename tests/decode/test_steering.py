"""What the caller decides of a plan stands in it, the rest is drawn, and nothing else of the sample changes."""

import dataclasses
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain.annotation import Tag, make_tag, pieces
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.prompts import encode_turns
from anchortrain.decode.sampler import sample
from anchortrain.decode.samples import to_row
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering, parse_tags, unusual
from anchortrain.decode.stream import Sampler
from anchortrain.decode.values import token_bytes
from anchortrain.errors import UserError
from anchortrain.roles import Role
from tests.conftest import shared_data
from tests.decode.test_sampler import PROMPTS, assert_same, full_logits, prompt_tokens, prompts

CONFIG = SamplingConfig(max_annotation_tokens=64, max_response_tokens=8, constrain=True, batch_size=16)
# `flat_model` at this boost closes an annotation now and then, so that tags come before and after a fixed one.
BOOST = 1.0


def steered(model, vocabulary, keys, n=32, config=CONFIG, seed=0, **what):
    return sample(model, vocabulary, prompts(n), config, keys=keys, seed=seed, steering=Steering(**what))


def check_tokens(row, vocabulary, given=()) -> None:
    """Fixed tags are cut into tokens as in training, and the sample is what its tokens say."""
    assert row["annotation_wellformed"] and row["tokens"][0] == vocabulary.ann_open
    inside = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role != Role.TEXT]
    assert inside[-1] == vocabulary.ann_close and len(inside) <= CONFIG.max_annotation_tokens + 1
    assert set(row["tokens"][len(inside) : -1]).isdisjoint(vocabulary.control_ids)
    for tag in given:
        first = [token for text, _ in pieces((tag,)) for token in vocabulary.encode(text)]
        later = [token for text, _ in pieces((tag, tag))[2:] for token in vocabulary.encode(text)]
        text = " ".join(map(str, inside))
        assert any(" ".join(map(str, ids)) in text for ids in (first, later))


def test_a_fixed_tag_stands_in_every_plan_and_the_rest_is_drawn(flat_model, vocabulary, keys):
    place, hero = Tag("place", "mill by the river"), Tag("hero", "the old fox")
    rows = steered(flat_model(BOOST), vocabulary, keys, n=128, fixed=(place,))
    before, after = Counter(), Counter()
    for row in rows:
        check_tokens(row, vocabulary, [place])
        names = [key for key, _ in row["annotation"]]
        assert names.count("place") == 1 and list(place) in row["annotation"]
        at = names.index("place")
        assert set(names[:at]) <= {"hero", "here"}
        before.update(names[:at])
        after.update(names[at + 1 :])
    assert min(before["hero"], before["here"]) > 3 and min(after["time-of-day"], after["hero"]) > 2
    both = steered(flat_model(BOOST), vocabulary, keys, fixed=(place, hero))
    for row in both:
        check_tokens(row, vocabulary, [hero, place])
        names = [key for key, _ in row["annotation"]]
        assert names.index("hero") < names.index("place") and {*map(tuple, row["annotation"])} >= {hero, place}
        assert Counter(names)["hero"] == Counter(names)["place"] == 1
    assert len({row["annotation_text"] for row in both}) > 8


def test_several_values_of_a_key_and_all_keys(flat_model, vocabulary, keys):
    tags = tuple(make_tag(key, value) for key, value in zip([*keys, keys[0]], "abcde", strict=True))
    for row in steered(flat_model(BOOST), vocabulary, keys, n=4, fixed=tags):
        assert row["annotation_text"] == "hero: a; hero: e; here: b; place: c; time-of-day: d"
        assert row["annotation_logprob"] == pytest.approx(0, abs=1e-5)


def test_a_whole_plan_is_what_the_text_is_drawn_given(model, vocabulary, keys):
    drawn = sample(model, vocabulary, prompts(8), CONFIG, keys=keys, seed=4)
    plan = tuple(Tag(*pair) for pair in (("place", "mill"), ("hero", "fox")))  # in an order of its own
    for row in steered(model, vocabulary, keys, n=8, plan=plan):
        check_tokens(row, vocabulary, plan)
        assert row["annotation"] == [list(tag) for tag in plan]
        assert row["annotation_logprob"] == pytest.approx(0, abs=1e-5)
    assert all(row["annotation_text"] == "" for row in steered(model, vocabulary, keys, n=4, plan=()))
    # The greedy response to a plan that was given is that to the same plan, drawn.
    greedy = dataclasses.replace(CONFIG, response_temperature=0.0)
    drawn = sample(model, vocabulary, prompts(8), greedy, keys=keys, seed=4)
    for i, row in enumerate(drawn):
        tokens = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role != Role.TEXT]
        given = tuple(Tag(*pair) for pair in row["annotation"])
        ids = [token for text, _ in pieces(given) for token in vocabulary.encode(text)]
        if tokens[1:-1] == ids:  # the model may have cut a value in another way
            again = sample(model, vocabulary, [row["prompt"]], greedy, keys=keys, steering=Steering(plan=given))[0]
            assert again["response"] == row["response"], i


def test_a_prefix_is_gone_on_from(flat_model, vocabulary, keys):
    flat = flat_model(BOOST)

    def plans(prefix, **what):
        rows = steered(flat, vocabulary, keys, prefix=prefix, **what)
        for row in rows:
            check_tokens(row, vocabulary)
        return [row["annotation_text"] for row in rows]

    ended = plans("hero: fox;")
    assert (
        all(text == "hero: fox" or text.startswith("hero: fox; ") for text in ended)
        and len(set(ended)) > 4
        and "hero: fox" in ended
    )
    assert all("; " in text for text in plans("hero: fox; "))
    going_on = plans("hero: fox")
    assert all(text.startswith("hero: fox") for text in going_on)
    assert any(not text.startswith("hero: fox;") and text != "hero: fox" for text in going_on)
    ambiguous = Counter(text.split(":")[0] for text in plans("he"))
    assert set(ambiguous) == {"hero", "here"}
    assert all(text.startswith("hero: fox; place: ") for text in plans("hero: fox; pl"))
    assert all(text.startswith("place: ") for text in plans("place: "))
    mixed = plans("here: a b", fixed=(Tag("place", "mill"), Tag("hero", "fox")))
    assert all(text.startswith("here: a b") and "; place: mill" in text and "; hero: fox" in text for text in mixed)


def test_a_word_that_has_begun_comes_out_as_the_model_cuts_it_into_tokens(flat_model, vocabulary, keys):
    """Fixed tokens of ` mi` would keep the model from ever writing ` mill`, which is one token."""
    mill, fox = vocabulary.encode(" mill"), vocabulary.encode(" fox")
    assert len(mill) == len(fox) == 1 and vocabulary.encode(" mi")[0] != mill[0]

    def values(prefix, n=96, **what):
        rows = steered(flat_model(0.0), vocabulary, keys, n=n, prefix=prefix, **what)
        for row in rows:
            check_tokens(row, vocabulary)
            assert row["annotation_text"].startswith(prefix)
        return rows

    def first(row, text):
        """The token after `text`."""
        after = row["tokens"][1 + sum(len(vocabulary.encode(part)) for part in text) :]
        return after[0]

    begun = values("place: mi")
    assert {first(row, ["place:"]) for row in begun} >= {*mill, vocabulary.encode(" m")[0]}
    later = values("hero: the old f")
    assert {first(row, ["hero:"]) for row in later} == {vocabulary.encode(" the")[0]}  # the words before are given
    assert fox[0] in {first(row, ["hero:", " the old"]) for row in later}
    for prefix in ("hero: the old ", "hero: <an", "hero: São Pau", "hero: " + "x" * 40, "hero: fox; place: mi"):
        assert len({row["annotation_text"] for row in values(prefix, n=8)}) > 4
    both = values("here: the mi", n=32, fixed=(Tag("place", "mill"),), required=("hero",))
    assert all({"hero", "place"} <= {key for key, _ in row["annotation"]} for row in both)


def test_a_word_that_has_begun_is_drawn_from_the_models_own_distribution(model, vocabulary, keys):
    prompt = encode_turns(vocabulary, PROMPTS[:1])
    key = vocabulary.encode("place:")
    context = [*prompt, vocabulary.ann_open, *key]
    logits = np.asarray(full_logits(model, jnp.asarray(context)), np.float64)[-1]
    spelt = token_bytes(vocabulary)
    may = [i for i, data in enumerate(spelt) if data and (data.startswith(b" mi") or b" mi".startswith(data))]
    allowed = np.array([i for i in may if b";" not in spelt[i] and b"\n" not in spelt[i]])
    expected = np.exp(logits[allowed] - logits[allowed].max())
    expected /= expected.sum()
    config = dataclasses.replace(CONFIG, max_response_tokens=1)
    sampler = Sampler(model, vocabulary, keys, places=16, most_tokens=160)
    for index in range(64):
        sampler.submit(prompt, config, seed=2, index=index, steering=Steering(prefix="place: mi"))
    seen = set()
    for update in sampler.run():
        token, logprob = update.sample.tokens[1 + len(key)], update.logprobs[1 + len(key)]
        assert logprob == pytest.approx(np.log(expected[list(allowed).index(token)]), abs=1e-3)
        seen.add(token)
    assert len(seen) > 1


@pytest.mark.parametrize("end", [";", "; ", "; p", "; h"])
def test_a_tag_that_is_due_after_a_prefix_stands_there_once(flat_model, vocabulary, keys, end):
    """Whether it is fixed or required, and whether the prefix begins its key."""
    for prefix, due in (("hero: fox", "here"), ("hero: fox; here: a", "place")):
        key = {"; p": "place", "; h": "here"}.get(end, due)
        if f"{key}: " in prefix:
            continue
        for what in ({"fixed": (Tag(key, "mill"),)}, {"required": (key,)}):
            rows = steered(flat_model(BOOST), vocabulary, keys, n=32, prefix=prefix + end, **what)
            for row in rows:
                check_tokens(row, vocabulary)
                names = [name for name, _ in row["annotation"]]
                assert row["annotation_text"].startswith(f"{prefix}; ") and key in names
                given = 1 + prefix.count(";")
                assert ("required" in what or names.count(key) == 1) and names[given:].count(key) > 0
                before = names[given : names.index(key)] if end in (";", "; ") else []
                assert all(keys.index(name) < keys.index(key) for name in before)


def test_forbidden_tags_are_avoided_or_refused(model, vocabulary, keys):
    short = dataclasses.replace(CONFIG, annotation_temperature=0.5, max_annotation_tokens=7)
    counts = Counter(
        tuple(tag) for row in sample(model, vocabulary, prompts(64), short, keys=keys) for tag in row["annotation"]
    )
    common = [Tag(*tag) for tag, _ in counts.most_common(3)]
    assert counts[common[0]] > 5
    rows = steered(model, vocabulary, keys, n=64, config=short, forbidden=tuple(common))
    drawn = Counter(tuple(tag) for row in rows for tag in row["annotation"])
    assert not set(common) & set(drawn) and drawn
    # A single plan is possible, and it is forbidden.
    cold = dataclasses.replace(CONFIG, annotation_temperature=0.0)
    likeliest = Tag(*sample(model, vocabulary, PROMPTS[:1], cold, keys=keys)[0]["annotation"][0])
    with pytest.raises(UserError, match="none of 256 plans was without"):
        steered(model, vocabulary, keys, n=1, config=cold, forbidden=(likeliest,))


def test_required_keys_are_in_every_plan_and_their_values_are_drawn(flat_model, vocabulary, keys):
    rows = steered(flat_model(BOOST), vocabulary, keys, n=64, required=("place", "hero"))
    values = {"hero": set(), "place": set()}
    for row in rows:
        check_tokens(row, vocabulary)
        names = [key for key, _ in row["annotation"]]
        assert names[0] == "hero" and names.index("place") > 0
        for key, found in values.items():
            found.update(value for name, value in row["annotation"] if name == key)
    assert min(map(len, values.values())) > 32
    fixed = steered(flat_model(BOOST), vocabulary, keys, fixed=(Tag("place", "mill"),), required=tuple(keys))
    assert all({key for key, _ in row["annotation"]} == set(keys) for row in fixed)
    assert all(["place", "mill"] in row["annotation"] for row in fixed)
    begun = steered(flat_model(BOOST), vocabulary, keys, prefix="hero: fox; here: a", required=("hero", "place"))
    assert all(row["annotation_text"].startswith("hero: fox; here: a") for row in begun)
    assert all("place" in [key for key, _ in row["annotation"]] for row in begun)


def test_a_steered_sample_does_not_depend_on_its_neighbours(flat_model, vocabulary, keys):
    flat = flat_model(BOOST)
    kinds = [
        Steering(),
        Steering(fixed=(Tag("place", "mill"),)),
        Steering(prefix="he"),
        Steering(plan=(Tag("hero", "fox"),)),
        Steering(fixed=(Tag("here", "x"),), forbidden=(Tag("hero", "a"),)),
    ]
    prompt = encode_turns(vocabulary, PROMPTS[:1])
    assert prompt == [vocabulary.bos, *prompt_tokens(vocabulary, PROMPTS[0])]

    def rows(chosen, places):
        sampler = Sampler(flat, vocabulary, keys, places=places, most_tokens=128)
        order = {sampler.submit(prompt, CONFIG, seed=3, index=i, steering=kinds[i % 5]): i for i in chosen}
        found = {order[update.number]: to_row(update.sample, vocabulary) for update in sampler.run()}
        assert sampler.in_flight == sampler.waiting == 0
        return [found[i] for i in chosen]

    crowd = rows(list(range(25)), 16)
    order = np.random.default_rng(0).permutation(25).tolist()
    assert_same(rows(order, 3), [crowd[i] for i in order])


def test_updates_show_no_plan_that_is_not_settled(flat_model, vocabulary, keys):
    sampler = Sampler(flat_model(BOOST), vocabulary, keys, places=4, most_tokens=128)
    config = dataclasses.replace(CONFIG, max_response_tokens=40)
    prompt = encode_turns(vocabulary, PROMPTS[:1])
    steering = Steering(fixed=(Tag("place", "mill"),), forbidden=(Tag("hero", "a"),))
    numbers = [sampler.submit(prompt, config, seed=1, index=i, steering=steering) for i in range(9)]
    sampler.cancel(numbers[4])
    seen, ended = {}, set()
    while sampler.in_flight or sampler.waiting:
        for update in sampler.step(3):
            number, drawn = update.number, update.sample
            assert number != numbers[4] and number not in ended
            assert drawn.wellformed and vocabulary.ann_close in drawn.tokens
            assert len(drawn.tokens) == len(drawn.roles) == len(update.logprobs)
            before = seen.get(number, [])
            assert drawn.tokens[: len(before)] == before
            seen[number] = drawn.tokens
            if update.done:
                ended.add(number)
                text = [role == Role.TEXT for role in drawn.roles]
                for stage, total in ((False, drawn.annotation_logprob), (True, drawn.response_logprob)):
                    parts = [p for p, inside in zip(update.logprobs, text, strict=True) if inside == stage]
                    assert sum(parts) == pytest.approx(total, abs=1e-3)
    assert ended == set(numbers) - {numbers[4]}


def test_log_probabilities_are_of_what_was_drawn(model, vocabulary, keys):
    """What was given counts nothing, at its own place."""
    prompt = encode_turns(vocabulary, PROMPTS[:1])
    sampler = Sampler(model, vocabulary, keys, places=16, most_tokens=128)
    for index in range(12):
        steering = Steering(prefix="hero: f; he", fixed=(Tag("place", "mill"),))
        sampler.submit(prompt, CONFIG, seed=5, index=index, steering=steering)
    given = [token for text in ("hero:", " f") for token in vocabulary.encode(text)]
    place = [token for text in ("; place:", " mill") for token in vocabulary.encode(text)]
    total = 0
    for update in sampler.run():
        tokens, logprobs = update.sample.tokens, update.logprobs
        assert tokens[1 : 1 + len(given)] == given
        at = next(i for i in range(len(tokens)) if tokens[i : i + len(place)] == place)
        zeros = [*range(1 + len(given)), *range(at, at + len(place))]
        assert all(logprobs[i] == 0 for i in zeros)
        drawn = [i for i, role in enumerate(update.sample.roles) if role != Role.TEXT and i not in zeros]
        # The rest of a key that has begun can be the only thing to draw.
        values = [i for i in drawn if update.sample.roles[i] == Role.ANNOTATION_VALUE]
        assert sum(logprobs[i] < 0 for i in values) >= 0.8 * len(values)
        total += len(drawn)
    assert total > 24


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"fixed": (Tag("villain", "wolf"),)}, "no key 'villain'.*hero, here, place"),
        ({"required": ("villain",)}, "no key 'villain'"),
        ({"prefix": "villain: wolf"}, "no key 'villain'"),
        ({"prefix": "hero fox; "}, "must read 'key: value'"),
        ({"prefix": "hero: fox; ", "forbidden": (Tag("hero", "fox"),)}, "forbidden and in the prefix"),
        ({"prefix": "hero:fox"}, "must read 'key: value', got 'hero:fox'"),
        ({"prefix": "x"}, "no key of the model begins with 'x'"),
        ({"prefix": "hero: fox", "fixed": (Tag("hero", "hen"),)}, "fixed and in the prefix"),
        ({"fixed": (Tag("hero", "x" * 200),)}, "takes .* tokens with its end, max_annotation_tokens is 64"),
    ],
)
def test_what_cannot_be_done_is_refused(model, vocabulary, keys, what, message):
    with pytest.raises(UserError, match=message):
        steered(model, vocabulary, keys, n=1, **what)


def test_a_prefix_that_leaves_too_little_for_a_tag_is_refused(model, vocabulary, keys):
    """Nothing could be drawn: the key alone is longer than the limit."""
    for limit in range(1, 9):
        config = dataclasses.replace(CONFIG, max_annotation_tokens=limit)
        try:
            rows = steered(model, vocabulary, keys, n=2, config=config, prefix="ti")
        except UserError as error:
            assert "tokens" in str(error) and "raise" in str(error)
            refused = limit
        else:
            assert all(row["annotation_text"].startswith("time-of-day: ") for row in rows)
    assert 1 < refused < 9


def test_contradictions_and_wrong_modes_are_refused(model, vocabulary, keys):
    fox = Tag("hero", "fox")
    with pytest.raises(UserError, match="fixed and forbidden"):
        Steering(fixed=(fox,), forbidden=(fox,))
    assert Steering(fixed={"hero": ["fox", "hen", "fox"]}).fixed == (fox, Tag("hero", "hen"))
    assert Steering(required=("hero", "hero")).required == ("hero",)
    for wrong, message in (
        ({"fixed": (Tag("place", "a;b"),)}, "Steering.fixed: .*delimiter ';'"),
        ({"fixed": (Tag("place", ""),)}, "Steering.fixed: .*non-empty"),
        ({"forbidden": (Tag("place", "\ud800"),)}, "Steering.forbidden: .*no valid Unicode"),
        ({"plan": ("hero",)}, "Steering.plan: a tag must be a pair"),
        ({"required": "hero"}, "Steering.required: must be a list of keys"),
        ({"prefix": None}, "Steering.prefix: must be a text"),
    ):
        with pytest.raises(UserError, match=message):
            Steering(**wrong)
    for prompts_, message in (
        ("Hi", "got one text"),
        ([None], "must be a text, got None"),
        (["a\udfff"], "at character 2"),
    ):
        with pytest.raises(UserError, match=message):
            sample(model, vocabulary, prompts_, CONFIG, keys=keys)
    with pytest.raises(UserError, match="whole plan leaves nothing"):
        Steering(fixed=(fox,), plan=())
    with pytest.raises(UserError, match="mode two_stage, not single_stage"):
        steered(model, vocabulary, keys, config=SamplingConfig(mode="single_stage"), fixed=(fox,))
    assert parse_tags(["hero= the fox", "place=a=b"], where="--set") == (Tag("hero", "the fox"), Tag("place", "a=b"))
    with pytest.raises(UserError, match="--set: a tag must read key=value, got 'hero'"):
        parse_tags(["hero"], where="--set")
    with pytest.raises(UserError, match="--set: .*delimiter ';'"):
        parse_tags(["hero=a;b"], where="--set")


def test_plans_unlike_those_of_the_training_data_are_told_apart():
    keys = ["hero", "place", "time"]
    for what, said in (
        ({"plan": {"hero": "fox", "place": "mill", "time": "dawn"}}, None),
        ({"plan": ()}, "may have hero, place, time as well"),
        ({"plan": (("hero", "fox"), ("hero", "hen"))}, "hero stands twice"),
        ({"fixed": {"hero": ["fox", "hen"]}}, "hero stands twice"),
        ({"prefix": "hero: fox; hero: "}, "hero stands twice"),
        ({"prefix": "hero: fox; t"}, "may have place as well"),
        ({"prefix": "hero: fox;"}, None),
        ({"prefix": ";"}, None),
        ({"plan": {"place": "mill", "hero": "fox"}}, "stand in the order hero, place"),
        ({"plan": {"hero": "fox", "time": "dawn"}}, "may have place as well"),
        ({"prefix": "hero: fox; pl"}, None),
        ({"prefix": "place: mi"}, "may have hero as well"),
        ({"prefix": "place: mill; hero: "}, "in the order hero, place"),
        ({"fixed": {"time": "dawn", "hero": "fox"}}, None),
    ):
        found = unusual(Steering(**what), keys)
        assert found == said or (found and said and said in found)


def test_sentencepiece_puts_a_space_of_its_own_before_a_separator(flat_model_of, keys):
    """It is no part of the value, neither where a fixed tag is put nor after what is given."""
    vocabulary = Vocabulary.from_path(shared_data() / "tokenizers" / "sentencepiece_test_model_1000.model")
    flat = flat_model_of(vocabulary, 4.0)
    place = Tag("place", "mill by")
    for row in steered(flat, vocabulary, keys, fixed=(place,)):
        check_tokens(row, vocabulary, [place])
        assert list(place) in row["annotation"]
    ended = steered(flat, vocabulary, keys, prefix="hero: fox;")
    assert all(row["annotation"][0] == ["hero", "fox"] for row in ended) and len({str(r) for r in ended}) > 4
    for row in steered(flat, vocabulary, keys, n=4, plan=(Tag("here", "a b"), place)):
        assert row["annotation_text"] == "here: a b; place: mill by"
