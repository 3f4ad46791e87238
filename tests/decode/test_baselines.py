"""What is asked of a model, and what is read from its answers."""

import pytest

from anchortrain.decode.baselines import BASELINES, items, verbalized_items
from anchortrain.errors import UserError


def test_lists_are_read():
    text = "Sure:\n1. A fox.\n2) The mill,\nat night.\n(3) Third\n- dash\n* star\n\n4. \n"
    assert [item for item, _ in items(text)] == ["A fox.", "The mill,\nat night.", "Third", "dash", "star"]
    assert items("no list, 3. of nothing") == []


def test_verbalized_answers_are_read():
    text = (
        "<response><text>One</text><probability>0.3</probability></response>\n"
        "<response><text>Two\nlines</text><probability> 20 % </probability></response>"
        "<response>bare <probability>0..5</probability></response><response><text></text></response>"
        "<response><text>cut</text>"
    )
    assert verbalized_items(text) == [("One", 0.3), ("Two\nlines", 0.2), ("bare", None), ("cut", None)]


class Model:
    """Answers with lists; every third answer is no list."""

    def __init__(self, answer):
        self.answer, self.asked, self.indices = answer, [], []

    def __call__(self, prompts, first):
        rows = []
        for i, prompt in enumerate(prompts):
            n = len(self.asked)
            self.asked.append(prompt)
            self.indices.append(first + i)
            rows.append({"prompt": prompt, "response": self.answer(prompt, n), "finished": True, "annotation": None})
        return rows


@pytest.mark.parametrize("name", ["list", "verbalized"])
def test_answers_in_one_context(name):
    def answer(prompt, n):
        assert prompt.startswith("Tell me.\n\n") and "5 answers" in prompt
        if n % 3 == 0:
            return "I cannot."
        if name == "list":
            return "".join(f"{i}. story {n}.{i}\n" for i in range(1, 6))
        return "".join(f"<response><text>story {n}.{i}</text></response>" for i in range(1, 6))

    model = Model(answer)
    rows = list(BASELINES[name]("Tell me.", 12, model))
    assert len(rows) == 12 and len({row["response"] for row in rows}) == 12
    assert [row["index"] for row in rows] == list(range(12))
    assert all(row["prompt"] == "Tell me." and row["method"] == name and row["annotation"] is None for row in rows)
    assert model.indices == list(range(len(model.asked))) and len(model.asked) < 6


def test_brainstorming_asks_for_ideas_first():
    def answer(prompt, n):
        if "brainstorm" in prompt:
            return "1. a fox\n2. a hen\n3. a bear\n4. a wolf\n5. a crow"
        return "About " + prompt.rsplit(": ", 1)[1]

    rows = list(BASELINES["brainstorm"]("Tell me.", 7, Model(answer)))
    assert [row["response"] for row in rows] == [
        f"About {idea}" for idea in ["a fox", "a hen", "a bear", "a wolf", "a crow", "a fox", "a hen"]
    ]
    assert rows[3]["idea"] == "a wolf" and rows[3]["prompt"] == "Tell me."


@pytest.mark.parametrize("name", BASELINES)
def test_a_model_that_cannot_answer_gives_nothing_and_is_asked_a_bounded_number_of_times(name):
    model = Model(lambda prompt, n: "once upon a time")
    assert list(BASELINES[name]("Tell me.", 10, model)) == []
    assert len(model.asked) == 8
    with pytest.raises(UserError, match="at least 1"):
        list(BASELINES[name]("Tell me.", 0, model))


def test_the_last_item_of_an_answer_that_was_cut_off_does_not_count():
    def model(prompts, first):
        return [{"response": "1. whole\n2. cut of", "finished": False} for _ in prompts]

    assert {row["response"] for row in BASELINES["list"]("Tell me.", 3, model)} == {"whole"}
