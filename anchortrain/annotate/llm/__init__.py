"""The llm annotator: annotations from any server that has `/v1/chat/completions`.

`settings` checks what the user set, `prompts` makes the request's messages, `client` sends one request, `answers`
reads what comes back, `asker` decides what follows from it, `budget` and `cache` keep money and answers in one SQLite
file (`database`), and `annotator` puts batches from several threads on one event loop.
"""

from anchortrain.annotate.llm.annotator import LlmAnnotator
from anchortrain.annotate.llm.settings import check, describe

__all__ = ["LlmAnnotator", "check", "describe"]
