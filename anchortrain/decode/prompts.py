"""Prompts in tokens, as the model was trained on them."""

from collections.abc import Sequence

from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError

_MOST_TOKENS = 1 << 15


def encode_turns(vocabulary: Vocabulary, turns: Sequence[str]) -> list[int]:
    """`<bos> <user> prompt <assistant> ⏎⏎`; earlier turns stand before it in the same form, without annotations.

    Args:
      turns: of user and assistant by turns, the user's first and last.

    Returns:
      Tokens, to which an annotation or a response can be added. Raises UserError when there are too many.
    """
    return encode_conversations(vocabulary, [turns])[0]


def _check_text(turn: str) -> None:
    if not isinstance(turn, str):
        raise UserError(f"a prompt must be a text, got {turn!r}", mend="give a list of texts")
    try:
        turn.encode()
    except UnicodeEncodeError as error:
        what = f"it is no valid Unicode text at character {error.start + 1}"
        raise UserError(what, where=f"prompt {turn[:30]!r}", mend="replace the lone surrogate") from None


def encode_conversations(vocabulary: Vocabulary, conversations: Sequence[Sequence[str]]) -> list[list[int]]:
    """`encode_turns` of each."""
    for turns in conversations:
        if len(turns) % 2 == 0:
            raise ValueError("a conversation must begin and end with the user")
        for turn in turns:
            _check_text(turn)
    end = vocabulary.encode(PROMPT_END)
    encoded = iter(vocabulary.encode_batch([turn for turns in conversations for turn in turns]))
    found = []
    for turns in conversations:
        ids = [vocabulary.bos]
        for i in range(len(turns)):
            tokens = next(encoded)
            ids += [*tokens, vocabulary.eos] if i % 2 else [vocabulary.user, *tokens, vocabulary.assistant, *end]
        if len(ids) >= _MOST_TOKENS:
            what = f"the prompt has {len(ids)} tokens with its roles, at most {_MOST_TOKENS - 1} are possible"
            raise UserError(what, where=f"prompt {turns[-1][:30]!r}", mend="shorten it")
        found.append(ids)
    return found
