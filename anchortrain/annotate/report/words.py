"""Words, for everything that compares annotations with texts."""

import re

# Chinese and Japanese characters are words of their own: nothing stands between them.
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’][^\W{_CJK}]+)*")


def words(text: str) -> list[str]:
    """The words of a text, case folded, in order; no punctuation."""
    return _WORD.findall(text.casefold())
