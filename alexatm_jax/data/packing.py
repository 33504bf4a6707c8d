"""Lays examples side by side in rows of fixed length, the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.places import Place
from alexatm_jax.data.vocabulary import SpecialIds

MODES = ("document_separator", "isolated")


class Example(NamedTuple):
    """Some text, and how training is to see it.

    Args:
      tokens: int32 [N], N >= 1: the text, without what the objective adds to it.
      num_read: how many of them the encoder reads.
      objective: what picks them, and what the decoder writes.
      task: index of the task it comes from, for counting.
      num_documents: how many documents it joins, with `[DOC]` between them.
      place: where its first token is read.
    """

    tokens: np.ndarray
    num_read: int
    objective: Objective
    task: int = 0
    num_documents: int = 1
    place: Place = Place()

    @property
    def text_tokens(self) -> int:
        """Counts the tokens that are documents', and not `[DOC]`."""
        return len(self.tokens) - self.num_documents + 1

    def sides(self, special: SpecialIds) -> tuple[int, int]:
        """Counts the encoder's tokens and the decoder's, `</s>` included."""
        written = len(self.tokens) - (0 if self.objective.writes_all else self.num_read)
        return self.num_read + len(self.objective.prefix(special)), written + 1


class OpenRows:
    """Rows being filled: what is in them and what room they have left.

    Args:
      count: how many rows to fill.
      encoder_length: S, tokens.
      decoder_length: T, tokens.
    """

    def __init__(self, count: int, encoder_length: int, decoder_length: int) -> None:
        self.rows: list[list[Example]] = [[] for _ in range(count)]
        self._lengths = encoder_length, decoder_length
        self._rooms = {number: self._lengths for number in range(count)}

    def __bool__(self) -> bool:
        """Says whether a row is open still."""
        return bool(self._rooms)

    @property
    def first_room(self) -> tuple[int, int]:
        """Tokens left on both sides of the first open row."""
        return next(iter(self._rooms.values()))

    def add(self, example: Example, read: int, written: int) -> bool:
        """Puts an example into the first open row with room for both its sides.

        Says whether there is one.

        Raises:
          ValueError: if an empty row has not room enough.
        """
        if read > self._lengths[0] or written > self._lengths[1]:
            raise ValueError(
                f"an example has {read} + {written} tokens, a row {self._lengths[0]} + "
                f"{self._lengths[1]}; split its document first, with split_document."
            )
        for number, (encoder_room, decoder_room) in self._rooms.items():
            if read <= encoder_room and written <= decoder_room:
                self.rows[number].append(example)
                self._rooms[number] = encoder_room - read, decoder_room - written
                return True
        return False

    def close_first(self, example: Example | None) -> None:
        """Puts an example, if given, into the first open row, and fills that row no further."""
        number = next(iter(self._rooms))
        del self._rooms[number]
        if example is not None:
            self.rows[number].append(example)


@dataclass(frozen=True)
class Packing:
    """How examples share rows, each as a segment of its own: none sees another.

    In mode "document_separator", the paper's (arXiv:2208.01448, Sec. 3; recipe §2), a
    denoising example is made of documents joined by `[DOC]`, which see each other, and takes
    all the room that a row has left. A CLM example is one single document or a piece of one,
    never a concatenation (recipe §3); a row may hold several of them. The paper does not say
    what else is in a sequence with a short CLM document: that denoising takes the rest is our
    choice.

    In mode "isolated" every document is its own example, or several if it is long.

    Examples that are no more than they are go first-fit into `num_rows` rows that are filled
    together: more rows leave less padding, but a restart has to read more examples again.

    Args:
      mode: one of `MODES`.
      encoder_length: S, tokens.
      decoder_length: T, tokens. In mode "document_separator" the encoder reads about 0.85 of
        what the decoder writes, and up to 0.8 of a CLM document: where its room runs out
        first, the decoder's stays empty. S = T leaves it about 3 % empty when documents
        are longer than rows, else below 1 %.
      num_rows: rows filled together.

    Raises:
      ValueError: if the mode is unknown, a length is below 2 or there is no row.
    """

    mode: str
    encoder_length: int
    decoder_length: int
    num_rows: int = 8

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"packing is {self.mode!r}; it must be one of {MODES}.")
        if min(self.encoder_length, self.decoder_length) < 2:
            raise ValueError(
                f"rows are {self.encoder_length} + {self.decoder_length} tokens long; a "
                "token beside `[CLM]` or `</s>` needs 2; give longer rows."
            )
        if self.num_rows < 1:
            raise ValueError(f"num_rows is {self.num_rows}; packing needs at least 1.")

    def joins(self, objective: Objective) -> bool:
        """Says whether examples of an objective are joined documents that fill a row."""
        return self.mode == "document_separator" and objective.joins_documents

    def open_rows(self, count: int) -> OpenRows:
        """Gives so many empty rows."""
        return OpenRows(count, self.encoder_length, self.decoder_length)

    def lay(
        self, rows: Sequence[Sequence[Example]], special: SpecialIds, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Noises or cuts examples, and lays them out: segments 1, 2, ... of each row.

        All rows at once, because a NumPy call costs as much as a thousand tokens.

        Args:
          rows: R rows of examples, in order.
          special: ids of the vocabulary's special tokens.
          rng: where the objectives' randomness comes from.

        Returns:
          The arrays of `alexatm_jax.batch`, int32 [R, S] or [R, T].

        Raises:
          ValueError: if the examples of a row do not fit it.
        """
        examples = [example for row in rows for example in row]
        counts = np.array([len(row) for row in rows])
        sides = np.array([example.sides(special) for example in examples])
        encoder = _Side(counts, sides[:, 0], self.encoder_length)
        decoder = _Side(counts, sides[:, 1], self.decoder_length)
        _write_texts(examples, special, rng, encoder, decoder)
        targets = decoder.tokens
        targets[decoder.begins + decoder.lengths - 1] = special.eos
        inputs = np.roll(targets, 1) * (decoder.spread(decoder.segments) > 0)
        inputs[decoder.begins] = special.bos
        ends = [example.objective.position_end for example in examples]
        starts = [0 if end is None else end - n for end, n in zip(ends, sides[:, 0], strict=True)]
        ids = [OBJECTIVES.index(example.objective.kind) for example in examples]
        flat = {
            "encoder_input_tokens": encoder.tokens,
            "encoder_positions": encoder.spread(starts) + encoder.ramps,
            "encoder_segment_ids": encoder.spread(encoder.segments),
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_positions": decoder.ramps,
            "decoder_segment_ids": decoder.spread(decoder.segments),
            "decoder_objective_ids": decoder.spread(ids),
        }
        return {name: values.reshape(len(rows), -1) for name, values in flat.items()}


class _Side:
    """One side of rows laid end to end: where each example lies in it, and its tokens.

    Attributes:
      tokens: int32 [rows x row_length], 0 until written.
      ramps: int32, the same shape: counts 0, 1, ... anew in each example, 0 on padding.
      begins, lengths, segments: int [examples], where each begins, how long it is and its
        number in its row, from 1.
    """

    def __init__(self, counts: np.ndarray, lengths: np.ndarray, row_length: int) -> None:
        first = np.repeat(np.cumsum(counts) - counts, counts)  # of the row, for each example
        in_row = np.cumsum(lengths) - lengths
        in_row -= in_row[first]
        if len(lengths) and (longest := (in_row + lengths).max()) > row_length:
            raise ValueError(
                f"examples of {longest} tokens were given for a row of {row_length}; split "
                "or pack them first."
            )
        self.lengths, self.segments = lengths, np.arange(len(lengths)) - first + 1
        self.begins = np.repeat(np.arange(len(counts)), counts) * row_length + in_row
        self.tokens = np.zeros(len(counts) * row_length, np.int32)
        self.ramps = np.zeros_like(self.tokens)
        self._places = _places(self.begins, lengths)
        self.ramps[self._places] = self._places - np.repeat(self.begins, lengths)

    def spread(self, values: Sequence[int] | np.ndarray) -> np.ndarray:
        """Gives each example's value to all of its tokens, 0 to padding."""
        flat = np.zeros_like(self.tokens)
        flat[self._places] = np.repeat(values, self.lengths)
        return flat


def _write_texts(
    examples: Sequence[Example],
    special: SpecialIds,
    rng: np.random.Generator,
    encoder: _Side,
    decoder: _Side,
) -> None:
    """Writes what the encoder reads and what the decoder is to write, but for `</s>`."""
    by_objective: dict[Objective, list[int]] = {}
    for number, example in enumerate(examples):
        by_objective.setdefault(example.objective, []).append(number)
    for objective, numbers in by_objective.items():
        chosen = [examples[number] for number in numbers]
        text = np.concatenate([example.tokens for example in chosen])
        lengths = np.array([len(example.tokens) for example in chosen])
        num_read = np.array([example.num_read for example in chosen])
        read = objective.read_mask(text, lengths, num_read, special, rng)
        begins, prefix = encoder.begins[numbers], objective.prefix(special)
        for offset, token in enumerate(prefix):
            encoder.tokens[begins + offset] = token
        encoder.tokens[_places(begins + len(prefix), num_read)] = text[read]
        written = text if objective.writes_all else text[~read]
        places = _places(decoder.begins[numbers], decoder.lengths[numbers] - 1)
        decoder.tokens[places] = written


def _places(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Lists the indices begin, begin + 1, ... of each stretch, one behind the other."""
    return np.arange(lengths.sum()) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
