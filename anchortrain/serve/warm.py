"""Compiles what requests will need, so that none of them waits for it."""

import dataclasses
from collections.abc import Callable

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.settings import SamplingConfig
from anchortrain.serve.settings import ServeConfig
from anchortrain.serve.worker import AnySampler

_LONGEST_PROMPT = 256  # longer ones are rare, and compiled when they come
_SHORTEST_PROMPT = 8
_TOKENS = 4  # to draw


def lengths(config: ServeConfig) -> list[int]:
    """Prompt lengths with programs of their own, in tokens."""
    found, most = [], min(config.max_prompt_tokens, _LONGEST_PROMPT)
    length = _SHORTEST_PROMPT
    while length <= most:
        found.append(length)
        length *= 2
    return found or [most]


def rounds(config: ServeConfig) -> int:
    """How often `warm_up` calls `progress`."""
    return 4 * len(lengths(config))


def warm_up(
    sampler: AnySampler,
    vocabulary: Vocabulary,
    defaults: SamplingConfig,
    config: ServeConfig,
    progress: Callable[[int], None],
) -> None:
    """Draws a little for each length of prompts: for one and for several at once, without filters and with."""
    plain = dataclasses.replace(defaults, max_response_tokens=min(_TOKENS, config.max_tokens))
    filler = vocabulary.encode("a b c d e f g h i j k l m n o p")
    for length in lengths(config):
        for several in (False, True):
            for settings in (plain, dataclasses.replace(plain, response_top_k=2)):
                for index in range(2 if several else 1):
                    body = [filler[(index + i) % len(filler)] for i in range(length - 2)]
                    prompt = [vocabulary.bos, vocabulary.user, *body, vocabulary.assistant]
                    sampler.submit(prompt[:length], settings, seed=0, index=index)
                while sampler.in_flight or sampler.waiting:
                    sampler.step()
                progress(1)
