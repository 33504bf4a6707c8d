"""Turns text into SentencePiece tokens and back, with the special pieces kept apart.

The seven special pieces of `SPECIAL_PIECES` are looked up by name, so that vocabularies
trained elsewhere, with other ids, can be read. They never come out of plain text: a
document that contains the characters "[CLM]" stays text, whereas `encode_prompt`, meant for
prompts that we write, turns them into the special piece.

python -m alexatm_jax.data.vocabulary train OUT.model --text LANGUAGE=PATTERN ...
python -m alexatm_jax.data.vocabulary report MODEL --text LANGUAGE=PATTERN ...
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2

from alexatm_jax.whole_files import write_whole

SPECIAL_PIECES = {
    "pad": "[PAD]",
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "mask": "[MASK]",
    "clm": "[CLM]",
    "doc": "[DOC]",
}
"""Field of `SpecialIds` to piece, in the order of the ids that `train` gives: recipe §1."""

RESERVED_PIECE = "<reserved_{}>"
"""Of tags that a later task may give a meaning, numbered from 0: recipe §2."""

_PROMPT_PIECES = ("[MASK]", "[CLM]", "[DOC]")
_ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
_KINDS = {
    _ModelProto.SentencePiece.NORMAL: "learned",
    _ModelProto.SentencePiece.UNKNOWN: "reserved",
    _ModelProto.SentencePiece.CONTROL: "reserved",
    _ModelProto.SentencePiece.USER_DEFINED: "added",
    _ModelProto.SentencePiece.UNUSED: "reserved",
    _ModelProto.SentencePiece.BYTE: "byte",
}


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special pieces in one vocabulary."""

    pad: int
    bos: int
    eos: int
    unk: int
    mask: int
    clm: int
    doc: int

    def __post_init__(self) -> None:
        if len(self.protected) != len(SPECIAL_PIECES) or min(self.protected) < 0:
            raise ValueError(f"{self} needs seven different ids, none of them negative.")

    @property
    def protected(self) -> frozenset[int]:
        """All seven ids, which no objective may drop: recipe §3."""
        return frozenset(astuple(self))


class Vocabulary:
    """A SentencePiece model on disk. It can be pickled, and then needs the file no more.

    Attributes:
      path: the model file.
      sha256: hash of that file, by which caches and checkpoints recognise it.
      size: V, the number of pieces. An embedding table may have more rows.
      special: ids of the special pieces.

    Raises:
      ValueError: if the file is missing, is no SentencePiece model or lacks a special
        piece.
    """

    def __init__(self, model_path: str | os.PathLike[str]) -> None:
        self.path = Path(model_path)
        if not self.path.is_file():
            raise ValueError(
                f"there is no vocabulary file {self.path}; give a SentencePiece model, or "
                "make one: python -m alexatm_jax.data.vocabulary train, or --run_mode=cache."
            )
        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._model = _load(content, self.path)
        self.size: int = self._model.get_piece_size()
        self.special = SpecialIds(
            *[self._model.piece_to_id(piece) for piece in SPECIAL_PIECES.values()]
        )

    def __repr__(self) -> str:
        return f"Vocabulary({str(self.path)!r}, {self.size} pieces, {self.sha256[:12]})"

    def encode(self, text: str) -> np.ndarray:
        """Tokenizes plain text to int32 [N], with neither `<s>` nor `</s>`."""
        return np.array(self._model.encode(text), np.int32)

    def encode_prompt(self, text: str) -> np.ndarray:
        """Tokenizes to int32 [N]; a literal `[CLM]`, `[MASK]` or `[DOC]` becomes its id.

        One space on either side of such a piece belongs to it: after "[CLM] " the text is
        tokenized as it is at the start of a document, just as the CLM objective shows it.
        """
        pieces = "|".join(map(re.escape, _PROMPT_PIECES))
        ids: list[int] = []
        for part in re.split(f" ?({pieces}) ?", text):
            special = part in _PROMPT_PIECES
            ids += [self._model.piece_to_id(part)] if special else self._model.encode(part)
        return np.array(ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Gives the text of the ids before the first `</s>`, special pieces left out.

        `<unk>`, and ids of table rows beyond the vocabulary, are shown as SentencePiece's
        replacement ` ⁇ `, so that they cannot pass for a right answer.
        """
        kept = []
        for token in map(int, ids):
            if token == self.special.eos:
                break
            if token not in self.special.protected or token == self.special.unk:
                kept.append(token if 0 <= token < self.size else self.special.unk)
        return self._model.decode(kept)

    def render(self, ids: Iterable[int]) -> str:
        """Gives the text of all ids with the special pieces spelt out, for human eyes."""
        parts: list[str] = []
        run: list[int] = []
        for token in [*map(int, ids), self.special.pad]:
            if token in self.special.protected:
                parts += [self.decode(run), self._model.id_to_piece(token)]
                run = []
            else:
                run.append(token)
        return " ".join(part for part in parts[:-1] if part)

    @cached_property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """The V pieces, each with its kind.

        Kinds: "special" (the seven), "reserved" (other pieces that no text gives), "byte", "added"
        (kept whole wherever they occur) and "learned". U+2581 stands for a space.
        """
        proto = _ModelProto.FromString(self._model.serialized_model_proto())
        special = set(SPECIAL_PIECES.values())
        return tuple(
            (piece.piece, "special" if piece.piece in special else _KINDS[piece.type])
            for piece in proto.pieces
        )

    def piece_bytes(self, *, first: bool) -> list[bytes]:
        """Gives what each of the V pieces adds to a decoded text, in UTF-8.

        Concatenated they are the text, unless byte pieces among them make no valid UTF-8.

        Args:
          first: at the beginning of a text, where SentencePiece drops the space of a word.
        """
        ahead = [] if first else [self.special.unk]
        drop = len(self._model.decode(ahead)) if ahead else 0
        texts = self._model.decode([[*ahead, token] for token in range(self.size)])
        pieces = [text[drop:].encode() for text in texts]
        for token in range(self.size):
            if self._model.is_byte(token):
                pieces[token] = bytes([int(self._model.id_to_piece(token)[3:-1], 16)])
            elif token in self.special.protected and token != self.special.unk:
                pieces[token] = b""
        return pieces


def train(
    sentences: Iterable[str],
    path: str | os.PathLike[str],
    *,
    size: int,
    model_type: str = "bpe",
    user_defined_symbols: Sequence[str] = (),
    character_coverage: float = 0.9995,
    required_characters: str = "",
    num_reserved: int = 0,
    num_threads: int = 1,
    over_two_gigabytes: bool = False,
) -> Vocabulary:
    """Trains a vocabulary with SentencePiece and writes it to `path`, whole or not at all.

    The special pieces get ids 0 to 6 in the order of `SPECIAL_PIECES`, the reserved ones those
    after them. Text is kept as it is: no normalization (which would lose the zero-width
    non-joiner of Telugu), digits apart, and bytes for characters without a piece. The same input
    and arguments give the same file.

    Args:
      sentences: NFC texts, held in memory by SentencePiece. Words of 2^16 characters make it
        fail, or abort the process: `sample.draw` cuts them.
      path: file to write.
      size: number of pieces, all kinds of them included.
      model_type: "bpe" or "unigram". Unigram, the paper's choice, needs a large lexicon: it
        shatters one of a few thousand words.
      user_defined_symbols: texts to keep as one piece wherever they occur, in words too.
      character_coverage: share of the characters, by frequency, that get their own piece.
      required_characters: characters that get their own piece, however rare; unlike a symbol
        of one character they may be part of longer pieces too.
      num_reserved: how many of `RESERVED_PIECE` to add. No text ever gives them.
      num_threads: of SentencePiece. With unigram each number gives slightly other pieces,
        because sums of floats are then taken in another order.
      over_two_gigabytes: whether the sentences may have more than 2^31 characters, for which
        SentencePiece needs wider indices, and some 70 % more memory.

    Raises:
      ValueError: if there is no text, `size` does not suit it, or a symbol is special.

    Source: recipe §2, after arXiv:2208.01448, Sec. 3.
    """
    _check_choices(model_type, user_defined_symbols)
    content = _trained(
        # SentencePiece's BPE aborts the process over a required character that never occurs.
        chain(sentences, required_characters),
        size,
        model_type=model_type,
        user_defined_symbols=list(user_defined_symbols),
        character_coverage=character_coverage,
        required_chars=required_characters,
        # Control pieces, unlike user-defined ones, are never matched in text.
        control_symbols=[*_PROMPT_PIECES, *map(RESERVED_PIECE.format, range(num_reserved))],
        num_threads=num_threads,
        train_extremely_large_corpus=over_two_gigabytes,
    )
    write_whole(Path(path), content)
    return Vocabulary(path)


_TRAINER_OPTIONS: dict[str, Any] = {
    **{f"{name}_id": row for row, name in enumerate(("pad", "bos", "eos", "unk"))},
    **{f"{name}_piece": SPECIAL_PIECES[name] for name in ("pad", "bos", "eos", "unk")},
    "byte_fallback": True,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    # SentencePiece silently skips longer texts, by default those above 4 kB.
    "max_sentence_length": 1 << 30,
    "minloglevel": 2,
}


def _check_choices(model_type: str, user_defined_symbols: Iterable[str]) -> None:
    if model_type not in ("bpe", "unigram"):
        raise ValueError(f"model_type is {model_type!r}; it must be 'bpe' or 'unigram'.")
    special = sorted(set(user_defined_symbols) & set(SPECIAL_PIECES.values()))
    if special:
        raise ValueError(
            f"user_defined_symbols name {special}, which are added anyway; leave them out."
        )


def _trained(sentences: Iterator[str], size: int, **options: Any) -> bytes:
    content = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=content,
            vocab_size=size,
            **options,
            **_TRAINER_OPTIONS,
        )
    except RuntimeError as error:
        raise ValueError(_training_problem(size, str(error))) from error
    return content.getvalue()


def _training_problem(size: int, reason: str) -> str:
    if "sentences_.empty" in reason:
        return "there is no text to train a vocabulary on; give at least one sentence."
    if limit := re.search(r"value <= (\d+)", reason):
        return (
            f"size is {size}, but this text yields at most {limit[1]} pieces; ask for "
            "fewer or give more text."
        )
    if needed := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        return (
            f"size is {size}, but the special, byte and user-defined pieces and single "
            f"characters alone need {needed[1]}; ask for more."
        )
    return f"SentencePiece could not train {size} pieces: {reason}; change size or text"


def _load(content: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """Reads a model and, however it was trained, lets text match no special piece."""
    try:
        proto = _ModelProto.FromString(content)
    except message.DecodeError:
        proto = _ModelProto()
    if not proto.pieces:
        raise ValueError(
            f"{path} is no SentencePiece model; give a .model file that SentencePiece "
            "wrote, or delete this one and make it again."
        )
    _check_special_pieces(proto, path)
    for piece in proto.pieces:
        if piece.piece in _PROMPT_PIECES:
            piece.type = _ModelProto.SentencePiece.CONTROL
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _check_special_pieces(proto: Any, path: Path) -> None:
    pieces = {piece.piece for piece in proto.pieces}
    missing = [piece for piece in SPECIAL_PIECES.values() if piece not in pieces]
    if not missing:
        return
    ordinary = (_ModelProto.SentencePiece.NORMAL, _ModelProto.SentencePiece.BYTE)
    others = [piece.piece for piece in proto.pieces if piece.type not in ordinary]
    near = {name: difflib.get_close_matches(name, others, cutoff=0.5) for name in missing}
    raise ValueError(
        f"{path} lacks the special pieces {missing}; near pieces are {near}; use a "
        f"vocabulary that has all of {list(SPECIAL_PIECES.values())}."
    )
