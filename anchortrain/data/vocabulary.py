"""Tokenizers behind one interface, with control tokens that no text can produce. No TensorFlow.

Two file formats are read: a Hugging Face `tokenizer.json` and a SentencePiece `*.model`. Seven controls
are needed; one that the tokenizer already has as a special (control) token keeps its id, the others get
ids after the base vocabulary. A control is only ever inserted by id: text that spells `<ann>` is encoded
like any other text.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from anchortrain.annotation import CLOSE, OPEN
from anchortrain.errors import UserError

PAD, BOS, EOS, USER, ASSISTANT = "<pad>", "<bos>", "<eos>", "<user>", "<assistant>"

# In the order of their ids in a tokenizer made by `anchortrain tokenizer`.
CONTROLS = (PAD, BOS, EOS, OPEN, CLOSE, USER, ASSISTANT)

# Other spellings under which known tokenizers have a control.
_SYNONYMS = {EOS: ("</s>", "<|endoftext|>"), PAD: ("<|pad|>", "<|padding|>"), BOS: ("<s>",)}


class _Base(Protocol):
    """What a file format has to offer."""

    file_name: str
    size: int  # ids lie in 0..size-1

    def control(self, name: str) -> int | None: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def token_text(self, token: int) -> str: ...


class _HuggingFace:
    """A `tokenizer.json`, read by the `tokenizers` library."""

    file_name = "tokenizer.json"

    def __init__(self, content: bytes) -> None:
        import tokenizers

        described = json.loads(content)
        known = {name for control in CONTROLS for name in (control, *_SYNONYMS.get(control, ()))}
        self._controls = {}
        for token in described.get("added_tokens", ()):
            if token["content"] in known:
                # Only special tokens are kept out of text by `encode_special_tokens`.
                token["special"] = True
                self._controls[token["content"]] = token["id"]
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(described))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def control(self, name: str) -> int | None:
        return self._controls.get(name)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_text(self, token: int) -> str:
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        # A token that is part of a character has no text of its own: show its name.
        return text if text and "\ufffd" not in text else self._tokenizer.id_to_token(token) or ""


class _SentencePiece:
    """A SentencePiece model."""

    file_name = "tokenizer.model"

    def __init__(self, content: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(content)
        self.size = self._processor.GetPieceSize()

    def control(self, name: str) -> int | None:
        token = self._processor.PieceToId(name)
        # A user-defined piece is not good enough: text can produce it.
        return token if self._processor.IsControl(token) and self._processor.IdToPiece(token) == name else None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.EncodeAsIds(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.DecodeIds(list(ids))

    def token_text(self, token: int) -> str:
        return self._processor.IdToPiece(token).replace("\u2581", " ")


_FORMATS: dict[str, type[_HuggingFace] | type[_SentencePiece]] = {".json": _HuggingFace, ".model": _SentencePiece}


class Vocabulary:
    """A tokenizer and its control tokens.

    Attributes:
      size: number of ids, controls included; every id lies in 0..size-1.
      pad, bos, eos, ann_open, ann_close, user, assistant: ids of the controls. `bos` is `eos` when the
        tokenizer has no token for it.
      controls: name of each control to its id.
      control_ids: all of these ids; `encode` never returns one.
      hash: sha256 of the file, in hexadecimal.
      path, file_name: the file read, and the name under which a copy is kept.
    """

    def __init__(self, base: _Base, *, path: Path, sha256: str) -> None:
        self._base = base
        self.path, self.hash, self.file_name = path, sha256, base.file_name
        self.base_size = self.size = base.size
        self.controls: dict[str, int] = {}
        for name in CONTROLS:
            candidates = [base.control(spelling) for spelling in (name, *_SYNONYMS.get(name, ()))]
            found = next((token for token in candidates if token is not None), None)
            if found is None and name != BOS:
                found = self.size
                self.size += 1
            if found is not None:
                self.controls[name] = found
        self.controls.setdefault(BOS, self.controls[EOS])
        self.pad, self.bos, self.eos = (self.controls[name] for name in (PAD, BOS, EOS))
        self.ann_open, self.ann_close = self.controls[OPEN], self.controls[CLOSE]
        self.user, self.assistant = self.controls[USER], self.controls[ASSISTANT]
        self.control_ids = frozenset(self.controls.values())
        self._names = {token: name for name, token in self.controls.items() if name != BOS or token != self.eos}

    @classmethod
    def from_path(cls, path: str | Path) -> "Vocabulary":
        """Reads a `*.json` or `*.model` file. Raises UserError when that is not possible."""
        path = Path(path)
        if path.suffix not in _FORMATS:
            mend = "give a Hugging Face tokenizer.json or a SentencePiece *.model"
            raise UserError("not a tokenizer", where=str(path), mend=mend + (" (gunzip it)" * (path.suffix == ".gz")))
        try:
            content = path.read_bytes()
        except OSError as error:
            mend = "make one with `anchortrain tokenizer`"
            raise UserError(f"cannot read the tokenizer: {error.strerror}", where=str(path), mend=mend) from None
        try:
            base = _FORMATS[path.suffix](content)
        except Exception as error:  # both libraries raise bare Exception or RuntimeError
            raise UserError(f"not a readable tokenizer: {error}", where=str(path)) from None
        return cls(base, path=path, sha256=hashlib.sha256(content).hexdigest())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no control is among them, whatever the text spells."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return self._base.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; controls are skipped."""
        return self._base.decode([int(token) for token in ids if token not in self.control_ids])

    def token_text(self, token: int) -> str:
        """What to show a person for one id."""
        token = int(token)
        return self._names[token] if token in self._names else self._base.token_text(token)
