"""Ways to get many different answers out of a model by asking, to compare two-stage sampling with.

None draws an annotation. Each asks for several things in one context and reads them from the answer; what cannot be
read is left out, and more is asked for until there are enough or a limit is reached.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from anchortrain.errors import UserError

# Prompts to rows of `sampler.sample`, in the same order; the second is the first index of the samples.
Generate = Callable[[Sequence[str], int], list[dict[str, Any]]]

PER_CALL = 5  # things to ask for at once
_CALLS = 4  # as often as would do if all could be read

_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s+", re.MULTILINE)
_RESPONSE = re.compile(r"<response>(.*?)(?:</response>|(?=<response>)|\Z)", re.DOTALL)
_TEXT = re.compile(r"<text>(.*?)</text>", re.DOTALL)
_PROBABILITY = re.compile(r"<probability>\s*([0-9.]+)\s*(%?)\s*</probability>")

_BRAINSTORM = (
    "{prompt}\n\nDo not answer yet. First brainstorm {count} ideas for the answer that differ from one another as much "
    "as possible. Write one idea a line, each after its number."
)
_IDEA = "{prompt}\n\nAnswer along the lines of this idea: {idea}"
_LIST = (
    "{prompt}\n\nGive {count} answers that differ from one another as much as possible. Begin each on a new line with "
    "its number."
)
_VERBALIZED = (
    "{prompt}\n\nGive {count} answers, drawn at random from all that you might give. Put each into "
    "<response></response>, in it the answer in <text></text> and in <probability></probability> how probable it is, "
    "from 0 to 1."
)


def indices_used(count: int) -> int:
    """Indices of samples that `count` answers to a prompt take at most, from 0 on."""
    return max(_CALLS * -(-count // PER_CALL), 2 * count)


def brainstorm(prompt: str, count: int, generate: Generate) -> Iterator[dict[str, Any]]:
    """Asks for ideas, then for an answer to each (the paper's baseline)."""
    ideas = _gathered(_BRAINSTORM, prompt, count, generate, items)
    answers = generate([_IDEA.format(prompt=prompt, idea=idea) for idea, _ in ideas], len(ideas)) if ideas else []
    for i, ((idea, _), row) in enumerate(zip(ideas, answers, strict=True)):
        yield row | {"prompt": prompt, "index": i, "method": "brainstorm", "idea": idea}


def answer_list(prompt: str, count: int, generate: Generate) -> Iterator[dict[str, Any]]:
    """Asks for several answers in one context (the paper's baseline)."""
    for i, (text, _) in enumerate(_gathered(_LIST, prompt, count, generate, items)):
        yield _row(prompt, i, text, "list")


def verbalized(prompt: str, count: int, generate: Generate) -> Iterator[dict[str, Any]]:
    """Asks for answers with their probabilities (verbalized sampling, arXiv 2510.01171)."""
    for i, (text, probability) in enumerate(_gathered(_VERBALIZED, prompt, count, generate, verbalized_items)):
        yield _row(prompt, i, text, "verbalized") | {"stated_probability": probability}


BASELINES: dict[str, Callable[[str, int, Generate], Iterator[dict[str, Any]]]] = {
    "brainstorm": brainstorm,
    "list": answer_list,
    "verbalized": verbalized,
}


def items(text: str) -> list[tuple[str, None]]:
    """The items of a numbered or bulleted list, without what stands before the first."""
    found = [part.strip() for part in _ITEM.split(text)[1:]]
    return [(item, None) for item in found if item]


def verbalized_items(text: str) -> list[tuple[str, float | None]]:
    """The answers of verbalized sampling, each with the probability that the model states, if it does."""
    found: list[tuple[str, float | None]] = []
    for part in _RESPONSE.findall(text):
        answer, stated = _TEXT.search(part), _PROBABILITY.search(part)
        words = (answer.group(1) if answer else _PROBABILITY.sub("", part)).strip()
        try:
            probability = float(stated.group(1)) / (100 if stated.group(2) else 1) if stated else None
        except ValueError:
            probability = None
        if words:
            found.append((words, probability))
    return found


def _gathered(
    template: str, prompt: str, count: int, generate: Generate, read: Callable[[str], list[Any]]
) -> list[tuple[str, float | None]]:
    """Up to `count` things, as many calls as it takes."""
    if count < 1:
        raise UserError(f"at least 1 sample must be asked for, got {count}")
    found: list[tuple[str, float | None]] = []
    asked, most = 0, _CALLS * -(-count // PER_CALL)
    while len(found) < count and asked < most:
        calls = min(-(-(count - len(found)) // PER_CALL), most - asked)
        question = template.format(prompt=prompt, count=min(PER_CALL, count))
        # An answer that was cut off may end within an item; what is whole counts.
        for row in generate([question] * calls, asked):
            things = read(row["response"])
            found += things if row["finished"] else things[:-1]
        asked += calls
    return found[:count]


def _row(prompt: str, index: int, text: str, method: str) -> dict[str, Any]:
    """Like a row of `sampler.sample`, without the tokens, which are those of several answers."""
    return {
        "prompt": prompt,
        "index": index,
        "annotation": None,
        "annotation_text": "",
        "response": text,
        "finished": True,
        "method": method,
    }
