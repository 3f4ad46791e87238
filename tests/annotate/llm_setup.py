"""What the tests of the llm annotator share: passages, a quick configuration, an annotator that is closed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm import LlmAnnotator
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import load_schema
from tests.annotate.llm_server import LlmServer

STORIES = load_schema("stories")


def passages(n: int, start: int = 0) -> list[Passage]:
    """Different passages."""
    places = ("mill", "forest", "castle", "harbour", "village")
    texts = [f"Tale {i}: the fox met {'Anna' if i % 2 else 'Peter'} near the {places[i % 5]}." for i in range(start, n)]
    return [Passage(text, "It was winter.", "prose", "tale", i, {}) for i, text in enumerate(texts)]


def quick(url: str, **changes: Any) -> LlmConfig:
    """A configuration that loses no time."""
    return LlmConfig(**{"endpoint": url, "model": "test-model", "api_key_env": "", "backoff_seconds": 0.01} | changes)


@contextlib.contextmanager
def opened(config: LlmConfig, directory: Path) -> Iterator[LlmAnnotator]:
    """An annotator of stories."""
    annotator = LlmAnnotator(config, STORIES, directory)
    try:
        yield annotator
    finally:
        annotator.close()


def expected(asked: list[Passage], directory: Path) -> list[Answer]:
    """The answers of a well-behaved server."""
    with LlmServer() as server, opened(quick(server.url), directory) as annotator:
        return annotator.annotate(asked)
