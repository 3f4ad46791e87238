"""What sort of text a chunk is, from its looks alone: schemas say which sorts they suit."""

import re

TYPES = ("prose", "verse", "list", "heading", "code", "mathematics")

_HEADING_CHARACTERS = 80
_VERSE_LINE_CHARACTERS = 60  # that lines of verse hardly exceed

_LIST_ITEM = re.compile(r"\s*(?:[-*•·]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_CODE_LINE = re.compile(
    r"\s*(?:```|~~~|#include\b|(?:from\s+[\w.]+\s+)?import\s+[\w.{*]|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+.*[:{]\s*$"
    r"|(?:pub\s+)?fn\s+\w+|func(?:tion)?\s+\w+|(?:public|private|static|const|let|var)\s+\w+"
    r"|(?:if|for|while|switch)\s*\(.*\)\s*\{|\}|return\b.*;?\s*$|//|/\*|@\w+|\$\s+\w+)"
    r"|.*(?:[;{]\s*$|\)\s*:\s*$|\w\(.*\)\s*;?\s*$|\w\s*(?:=|\+=|-=|:=|=>|->)\s*\S.*[\w)\]}'\";]\s*$)"
)
_MATHEMATICS = re.compile(
    r"\$[^$\n]+\$|\\(?:frac|sqrt|sum|int|begin|cdot|times|left|leq|geq)\b|[=<>≤≥]\s*[-+]?\$?\d|\d\s*[-+*/×÷^=]\s*\$?\d"
)
_SENTENCE_END = re.compile(r"[.!?…:;,][\"'”’)\]]*\s*$")


def chunk_type(text: str) -> str:
    """One of `TYPES`; `prose` where nothing else is evident."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "prose"
    if "```" in text or _share(_CODE_LINE, lines) > 0.6 and not _looks_like_sentences(lines):
        return "code"
    words = len(text.split())
    if len(_MATHEMATICS.findall(text)) * 25 >= words and words > 3:
        return "mathematics"
    if len(lines) >= 2 and _share(_LIST_ITEM, lines) > 0.6:
        return "list"
    stripped = text.strip()
    if len(lines) == 1 and len(stripped) <= _HEADING_CHARACTERS and not _SENTENCE_END.search(stripped):
        return "heading"
    if len(lines) >= 3 and all(len(line.strip()) <= _VERSE_LINE_CHARACTERS for line in lines):
        return "verse"
    return "prose"


def _share(pattern: re.Pattern[str], lines: list[str]) -> float:
    return sum(bool(pattern.match(line)) for line in lines) / len(lines)


def _looks_like_sentences(lines: list[str]) -> bool:
    """Long lines of plain words, which now and then end as code does."""
    wordy = sum(len(re.findall(r"[A-Za-z]{2,} [A-Za-z]{2,} [A-Za-z]{2,}", line)) >= 2 for line in lines)
    return wordy / len(lines) > 0.5
