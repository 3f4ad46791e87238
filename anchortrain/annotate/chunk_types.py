"""What sort of text a chunk is, from its looks alone: schemas say which sorts they suit."""

import re

TYPES = ("prose", "verse", "list", "heading", "code", "mathematics")

_MOST_CHARACTERS = 6000  # that are looked at: the beginning tells
_HEADING_CHARACTERS = 80
_VERSE_LINE_CHARACTERS = 60  # that lines of verse hardly exceed
_WORDS_FOR_A_FORMULA = 18  # a text with a formula for each so many words is mathematics

_LIST_ITEM = re.compile(
    r"\s*(?:[-*•·–+]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\[[ xX]?\]|#\d+)\s+\S|\s*\|.*\||[^|\n]+ \| [^|\n]+ \|"
)
# Lines that only programs have.
_CODE_LINE = re.compile(
    r"\s*(?:#!/|(?:done|fi|esac)\s*;?\s*$|for\s+\w+\s+in\s[^\n]{0,120};\s*do\s*$|echo\s+[\"'$]"
    r"|#include\b|from\s+[\w.]+\s+import\b|import\s+[\w.{*]+[\w.,* {}]*(?:;|$|\s+from\b|\s+as\b)"
    r"|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+[^.]{0,80}[:{]\s*$|(?:pub\s+)?fn\s+\w+\s*[(<]|func(?:tion)?\s+\w*\s*\("
    r"|(?:public|private|protected|static|const|let|var)\s+[\w<>\[\]]+\s*[\w=(;:]"
    r"|(?:if|for|while|switch|elif|else if)\b[^\n]{0,120}[:{]\s*$|(?:else|try|finally|do)\s*[:{]\s*$|[}\])]+[;,]?\s*$"
    r"|return\b[^\n]{0,120}[;)\]}\w\"']\s*$|//|/\*|@\w+(?:\(|\s*$)|</?[a-zA-Z][\w-]*[\s>/]|<!|[\w.#\-: ]{1,60}\{\s*$"
    r"|(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE|FROM|WHERE|GROUP BY|ORDER BY)\s+\S"
    r"|[\w.]+(?:\[[^\]\n]{0,60}\])?\s*(?::=|=>|[-+*/]?=)\s*[^=\d\s$][^\n]{0,160}[\w)\]}'\";]\s*$"
    r"|[\w.]+\([^\n]{0,160}\)\s*[;{]?\s*$)"
    r"|[^\n]{0,200}(?:;\s*$|\{\s*$)"
)
_FORMULA = re.compile(
    r"\$[^$\n]{0,80}[\\^_={][^$\n]{0,80}\$|\\(?:frac|sqrt|sum|int|begin|cdot|times|left|leq|geq|binom|pi)\b"
    r"|[=<>≤≥≈]\s*[-+]?[$£€(]?\s*\d|[\d)%a-z]\s?[+*/×÷^]\s?[$(]?\d|\d\s?-\s?[$(]?\d|\d\s?x\s?\d|\b[a-zA-Z]\s?=\s?[\w(-]"
)
_EQUALITY = re.compile(r"=\s*[-+$£€(\\\w]|\\[a-z]+\{|[≤≥≈]|<<")
_SENTENCE_END = re.compile(r"[.!?…:;,][\"'”’)\]]*\s*$")
_FULL_STOP = re.compile(r"[.!?…][\"'”’)\]*_]*\s*$")
_PLAIN_WORDS = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}")
_BREAK = re.compile(r"[*•·#_=~—–-][*•·#_=~—–\s-]*")  # between scenes
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)


def chunk_type(text: str) -> str:
    """One of `TYPES`; `prose` where nothing else is evident. Looks at the first thousands of characters only."""
    text = text[:_MOST_CHARACTERS]
    lines = [line for one in text.splitlines() if (line := one.strip()) and not _BREAK.fullmatch(line)]
    if not lines:
        return "prose"
    if _FENCE.search(text) or _is_code(lines):
        return "code"
    if _is_mathematics(text):
        return "mathematics"
    if len(lines) >= 2 and _share(_LIST_ITEM, lines) > 0.6:
        return "list"
    stripped = text.strip()
    if len(lines) == 1 and len(stripped) <= _HEADING_CHARACTERS and not _SENTENCE_END.search(stripped):
        return "heading"
    return "verse" if _is_verse(lines) else "prose"


def _share(pattern: re.Pattern[str], lines: list[str]) -> float:
    return sum(bool(pattern.match(line)) for line in lines) / len(lines)


def _is_code(lines: list[str]) -> bool:
    """Most lines look like a program's, and not like long lines of plain words, which now and then end as code does."""
    if _share(_CODE_LINE, lines) < 0.5:
        return False
    wordy = sum(len(_PLAIN_WORDS.findall(line)) >= 2 for line in lines)
    return wordy <= 0.5 * len(lines)


def _is_mathematics(text: str) -> bool:
    words = len(text.split())
    formulas = len(_FORMULA.findall(text)) if _EQUALITY.search(text) else 0
    return words >= 2 and formulas * _WORDS_FOR_A_FORMULA >= words


def _is_verse(lines: list[str]) -> bool:
    """Three short lines or more that mostly do not end where sentences do, as lines of dialogue would."""
    if len(lines) < 3 or not all(len(line) <= _VERSE_LINE_CHARACTERS for line in lines):
        return False
    ended = sum(bool(_FULL_STOP.search(line)) for line in lines)
    spoken = sum(line[0] in '“"—' for line in lines)
    return ended <= 0.7 * len(lines) and spoken <= 0.5 * len(lines)
