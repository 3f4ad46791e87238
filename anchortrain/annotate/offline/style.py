"""How a text is written: measures of its looks and of a few telling words."""

import re

from anchortrain.annotate.offline.reading import Reading

_SIGNED = re.compile(
    r"\n\s*(?:(?:Yours|Sincerely|Warmly|Warm regards|Best regards|Kind regards|Regards|Respectfully|Love)\b|Best,)"
)
_GREETING = re.compile(r"\s*(?:My )?Dear(?:est)? [^\n.!?]{1,50}[,:—]")
_SPEAKER = re.compile(r"^\s*(?:\*\*)?[A-Z][\w .']{0,24}(?:\*\*)?:\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(?:step\s+)?\(?\d{1,2}[.):]\s", re.MULTILINE | re.IGNORECASE)
_INLINE = re.compile(r"(?:^|\s)\(?\d{1,2}[.):]\s+\w")
_BULLET = re.compile(r"^\s*[-*•·+]\s+\S", re.MULTILINE)
_EQUATION = re.compile(r"\d\s*[-+*/x×÷=]\s*\$?\d|=\s*\$?\d|<<")

_FIRST = frozenset("i my me myself mine i'm i've i'll i'd i’m i’ve i’ll i’d we our us".split())
_SECOND = frozenset("you your you're you’re yourself you'll".split())
_OPINION = frozenset(
    "should must think believe opinion ought surely undoubtedly unfortunately seems arguably best worst".split()
)
_STATIVE = frozenset("was were is are had has there stood lay seemed looked hung ran rose like".split())
_ACTORS = frozenset("he she they him her his them".split())
_TELLING = frozenset(
    "said went came took ran saw told gave made began found got put left asked cried turned fell set heard".split()
)


def share(reading: Reading, words: frozenset[str]) -> float:
    """Share of these words, of all."""
    return sum(reading.counts[word] for word in words & reading.counts.keys()) / max(len(reading.words), 1)


def _first_person(reading: Reading) -> float:
    """Share of first-person words outside quotation marks."""
    told = reading.narration.lower().split()
    return sum(word.strip(".,;:!?—()'’") in _FIRST for word in told) / max(len(told), 1)


def is_letter(reading: Reading) -> bool:
    """A salutation at the beginning, or a closing formula near the end."""
    return bool(_GREETING.match(reading.text) or _SIGNED.search(reading.text[-200:]))


def story_style(reading: Reading) -> list[str]:
    """Of a passage of a story: verse, letter, dialogue, first person, description, narration."""
    if reading.passage.kind == "verse":
        return ["verse"]
    if not reading.words:
        return []
    if is_letter(reading):
        return ["letter"]
    if reading.quoted_share > 0.45:
        return ["dialogue"]
    if _first_person(reading) > 0.045:
        return ["first person"]
    told, stative = share(reading, _TELLING) + share(reading, _ACTORS), share(reading, _STATIVE)
    if len(reading.words) >= 25 and stative > 0.045 and told < 0.055:
        return ["description"]
    return ["narration"]


def page_style(reading: Reading) -> list[str]:
    """Of general text: list, questions, dialogue, first person, instructions, opinion, narration, exposition."""
    if not reading.words:
        return []
    text = reading.text
    if reading.passage.kind == "list":
        return ["instructions" if is_steps(reading) else "list"]
    if text.count("?") >= 2 and text.count("?") > 0.4 * max(1, sum(text.count(mark) for mark in ".!?")):
        return ["questions"]
    if reading.quoted_share > 0.5:
        return ["dialogue"]
    if share(reading, _SECOND) > 0.03 or is_steps(reading):
        return ["instructions"]
    if _first_person(reading) > 0.04:
        return ["first person"]
    if share(reading, _OPINION) > 0.025:
        return ["opinion"]
    if share(reading, _ACTORS) > 0.06 or share(reading, _ACTORS) + share(reading, _TELLING) > 0.075:
        return ["narration"]
    return ["exposition"]


def is_steps(reading: Reading) -> bool:
    """Numbered lines, or lines that say 'step'."""
    return len(_NUMBERED.findall(reading.text)) >= 2 and not _BULLET.search(reading.text)


def form(reading: Reading) -> list[str]:
    """The form of a response, by its looks and by what was asked for."""
    passage, text = reading.passage, reading.text
    asked = passage.before[:2000].lower()
    lines = [line for line in text.splitlines() if line.strip()]
    if not reading.words:
        return []
    if passage.kind == "code":
        return ["code"]
    if passage.kind == "mathematics" or len(_EQUATION.findall(text)) >= max(2, len(reading.words) / 25):
        return ["calculation"]
    if is_letter(reading):
        return ["letter"]
    if (
        passage.kind == "verse"
        or len(lines) >= 3
        and any(word in asked for word in ("poem", "haiku", "limerick", "lyrics"))
    ):
        return ["poem"]
    if len(_SPEAKER.findall(text)) >= max(2, len(lines) / 2):
        return ["dialogue"]
    if is_steps(reading):
        return ["steps" if _tells_steps(reading, asked) else "list"]
    bullets = len(_BULLET.findall(text)) >= max(2, len(lines) / 2)
    inline = len(_INLINE.findall(text)) >= 3
    if inline and _tells_steps(reading, asked):
        return ["steps"]
    if passage.kind == "list" or bullets or inline:
        return ["list"]
    if reading.quoted_share > 0.5 and text.count("\n") >= 2:
        return ["dialogue"]
    return [_prose_form(reading, asked)]


def _tells_steps(reading: Reading, asked: str) -> bool:
    return "step" in reading.counts or "how to" in asked or "how do" in asked or "recipe" in asked or "steps" in asked


def _prose_form(reading: Reading, asked: str) -> str:
    told = share(reading, _TELLING) + share(reading, _ACTORS)
    if len(reading.words) >= 40 and (
        "once upon a time" in reading.line or told > 0.07 or "story" in asked and told > 0.04
    ):
        return "story"
    if len(reading.words) >= 25 and _first_person(reading) > 0.05:
        return "first person"
    if len(reading.words) <= 12:
        return "short answer"
    first = reading.text.lstrip()[:120]
    if (
        len(reading.words) <= 60
        and re.search(r"\b(?:is|are|means|refers to) (?:a|an|the|any|to)\b", first)
        and ("what is" in asked or "define" in asked or "definition" in asked or "what are" in asked or not asked)
    ):
        return "definition"
    return "explanation"
