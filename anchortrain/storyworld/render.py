"""The grammar of the story world: five document styles, the assistant form and the prompts.

A template is a string in which `{hero}` is a slot and `[this|that]` a choice (not nested). A style is two
paragraphs; a whole story joins them in one chunk, a story in two parts puts a blank line between
them. Which attributes a chunk is annotated with follows from its slots. The parser reads the same templates.

Some documents open with a chunk that says nothing of the story and has no annotation, as a title or a greeting is in a
real corpus: a heading before a story in two parts, or a line or two before a story that follows whole. From the latter
the base learns to plan a whole story after text that is none, which is what a prompt asks of it.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.storyworld.values import ATTRIBUTES, PHRASES

CHUNK_SEPARATOR = "\n\n"
TWO_PART_SHARE = 0.2
OPENING_SHARE = 0.45

_PART = re.compile(r"\{(?P<slot>\w+)\}|\[(?P<choice>[^\]]*)\]|(?P<literal>[^\[\{]+)")


class Template(NamedTuple):
    """A compiled template: a sequence of choices, each a tuple of alternatives; an alternative is a tuple of pieces.

    A piece is a literal, or the name of an attribute in braces.
    """

    choices: tuple[tuple[tuple[str, ...], ...], ...]

    @classmethod
    def compile(cls, text: str) -> "Template":
        choices = []
        for part in _PART.finditer(text):
            alternatives = part["choice"].split("|") if part["choice"] is not None else [part.group()]
            choices.append(tuple(_pieces(alternative) for alternative in alternatives))
        return cls(tuple(choices))

    def render(self, values: Mapping[str, str], rng: np.random.Generator) -> tuple[str, list[str]]:
        """The text for `values` (attribute -> value) and the attributes it expresses, in canonical order."""
        draws = iter(rng.random(len(PHRASES) + len(self.choices)).tolist())
        wordings = {name: PHRASES[name][values[name]][int(2 * next(draws))] for name in PHRASES}
        shown = {f"{{{name}}}": wordings.get(name, value) for name, value in values.items()}
        pieces = [piece for choice in self.choices for piece in choice[int(len(choice) * next(draws))]]
        text = "".join([shown.get(piece, piece) for piece in pieces])
        return text, [name for name in ATTRIBUTES if f"{{{name}}}" in pieces]


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(piece for piece in re.split(r"(\{\w+\})", text) if piece)


class Style(NamedTuple):
    """A document style: its two paragraphs and what joins them within one chunk."""

    name: str
    first: Template
    second: Template
    joint: str


def _style(name: str, first: str, second: str, joint: str = " ") -> Style:
    return Style(name, Template.compile(first), Template.compile(second), joint)


STYLES: tuple[Style, ...] = (
    _style(
        "diary",
        "[|# My diary\n|# A day at the {place}\n][Monday|Friday|Sunday]. Today I [met|saw] a {trait} {hero} "
        "[near|by] the {place}. [We sat down and talked for a long time|We talked until it was dark]. The {hero} "
        "[was good to me|told me everything]. [All this week|For days now] {genre}[|, and I cannot sleep].",
        "[Before supper|In the evening] my new friend showed me a {object}. I [held it in my hands|looked at it "
        "for a long time]. [I heard later|They told me later] that in the end {ending}. Now it is late and I must "
        "[sleep|write no more].",
    ),
    _style(
        "news",
        "[# News from the {place}\n|# Morning news\n|]People [say|write] that a {trait} {hero} came to the "
        "{place} [last week|this morning|on Friday]. The {hero} [gave no name|would not talk to us].",
        "[Many people|Two children] saw a {object} [in a bag|on a cart]. [At that time|That same day] {genre}[|, "
        "as we told you before]. [We do not know more|Many people were there]. [Later|In the evening] we heard "
        "that {ending}. [More news on Monday|We will write again soon].",
    ),
    _style(
        "letter",
        "Dear [sister|brother|uncle],\n[I write to you from|I am well and live at] the {place}. [It is cold "
        "here|It rains every day]. You must know that this [year|winter] {genre}. [I hope you are well|I think of "
        "you every evening].",
        "[Here I met|I live here with] a {trait} {hero}. [Last week|On Sunday] we found a {object} [in the "
        "snow|under a tree]. The {hero} [cried for a long time|held it up to the light]. Do you want to know how "
        "it ended? [In the end|At last] {ending}.\n[With love from your cousin|Write to me soon].",
        joint="\n",
    ),
    _style(
        "gossip",
        "- Have you heard about the {trait} {hero}?\n- [No, tell me|No, what was it]!\n- The {hero} [stole|won] a "
        "{object} [last week|on Monday]. [What do you say to that|Do you know how]?",
        "- Where was that?\n- [Down by|Over at] the {place}. [My uncle|My sister] saw everything. [And you "
        "know|And all this time] {genre}.\n- And how did it end?\n- [Well|Oh], {ending}. [But tell no one|That is "
        "all I know].",
        joint="\n",
    ),
    _style(
        "chronicle",
        "[# The {hero} and the {object}\n|# The old book\n|]In the [first|third|seventh] year of the [king|queen] "
        "a {trait} {hero} [ruled over|lived at] the {place}. [It is written|The old people say] that the {hero} "
        "[kept|owned] a {object} [from a far land|for a long time].",
        "In that [year|winter] {genre}, as [the old people|our fathers] say. [Great fires were seen on the "
        "hills|The people were afraid]. [When the winter was over|When the king died] {ending}. [So it is "
        "written|Here the book ends].",
    ),
)

OPENING = Template.compile(
    "[My sister|My brother|My uncle|My cousin|A friend|The teacher|Nobody] [asked for|wants|likes|found|sent|heard] "
    "[a|one more] [new|old|short|long|good|true|strange] [story|letter|book|song]"
    "[| for the children| for this evening| for my sister| from home]."
    "[| Please read it before you sleep.| Write to me when you can.| Can you tell me if you know it?| I do not know it."
    "| Tell me more.]"
)
HEADING = Template.compile("# [A story|News|A letter|A page|A talk] in two [parts|pieces]")

# The response of the assistant. Its frame never occurs in a document; the words around a slot do.
ASSISTANT = Template.compile(
    "Once upon a time there [lived|was] a {trait} {hero} [at|near] the {place}. [Every day|Every morning] the "
    "{hero} [dreamed of|wished for] a {object}, and one day it was found [in the snow|under a tree]. In those "
    "days {genre}, [as the old people say|as you know]. [But in the end|And at last] {ending}. The moral of the "
    "story: [be good to your friends|never forget your friends]."
)

_PROMPTS = (
    ("Tell me", "Please tell me", "Can you tell me", "Write me", "Please write me", "Can you write me", "I want"),
    (
        " a story",
        " a short story",
        " a good story",
        " a new story",
        " a long story",
        " an old story",
        " one more story",
    ),
    ("", " before I sleep", " for my children", " for my sister", " that I do not know", " for this evening"),
)


def prompts() -> list[str]:
    """Every wording of a user's prompt, in a fixed order. None names a value of an attribute."""
    return ["".join(parts) + ("?" if parts[0].startswith("Can") else ".") for parts in itertools.product(*_PROMPTS)]


def document(values: Mapping[str, str], rng: np.random.Generator) -> list[dict]:
    """The chunks `{"text", "annotation"}` of a random document with these attribute values."""
    style_draw, kind = rng.random(2).tolist()
    style = STYLES[int(style_draw * len(STYLES))]
    first, first_names = style.first.render(values, rng)
    second, second_names = style.second.render(values, rng)
    if kind < TWO_PART_SHARE:
        heading, _ = HEADING.render(values, rng)
        return [
            _bare(heading),
            _chunk(first + CHUNK_SEPARATOR, values, first_names),
            _chunk(second, values, second_names),
        ]
    whole = _chunk(first + style.joint + second, values, [*ATTRIBUTES])
    if kind < TWO_PART_SHARE + OPENING_SHARE:
        return [_bare(OPENING.render(values, rng)[0]), whole]
    return [whole]


def response(values: Mapping[str, str], rng: np.random.Generator) -> str:
    """A random response in the assistant form."""
    return ASSISTANT.render(values, rng)[0]


def _bare(text: str) -> dict:
    return {"text": text + CHUNK_SEPARATOR}


def _chunk(text: str, values: Mapping[str, str], names: Sequence[str]) -> dict:
    return {"text": text, "annotation": {name: values[name] for name in names}}
