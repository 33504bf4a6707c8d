"""Lays examples side by side in rows of fixed length, the rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MODES = ("document_separator", "isolated")


@dataclass(frozen=True)
class Example:
    """What an objective made of some tokens, and how training is to see it.

    Args:
      encoder_tokens: int32 [n], n >= 1.
      decoder_targets: int32 [m], m >= 1, `</s>` last.
      objective_id: index into `batch.OBJECTIVES`.
      position_end: if set, encoder positions end before it; else they start at 0.
      task: index of the task it comes from, for counting.
    """

    encoder_tokens: np.ndarray
    decoder_targets: np.ndarray
    objective_id: int
    position_end: int | None = None
    task: int = 0

    @property
    def first_position(self) -> int:
        """Position of the first encoder token; the others follow it."""
        if self.position_end is None:
            return 0
        return self.position_end - len(self.encoder_tokens)


@dataclass(frozen=True)
class Packing:
    """How examples share rows.

    In mode "document_separator", the paper's (arXiv:2208.01448, Sec. 3; recipe §2), a row
    is one example. Denoising examples are made of documents joined by `[DOC]`, which see
    each other; a CLM example is one document, so a short one leaves its row mostly empty.

    In mode "isolated" every document is its own example and a row holds several, told apart
    by segment ids, so that none sees another. Rows are filled first-fit, `num_bins` at a
    time: more bins leave less padding, but a restart has to read more examples again.

    Raises:
      ValueError: if the mode is unknown, a length is below 2 or there is no bin.
    """

    mode: str
    encoder_length: int
    decoder_length: int
    num_bins: int = 8

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"packing is {self.mode!r}; it must be one of {MODES}.")
        if min(self.encoder_length, self.decoder_length) < 2:
            raise ValueError(
                f"rows are {self.encoder_length} + {self.decoder_length} tokens long; a "
                "token beside `[CLM]` or `</s>` needs 2; give longer rows."
            )
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; packing needs at least 1.")

    def first_fit(self, examples: Iterable[Example]) -> list[list[Example]]:
        """Puts each example into the first bin with room for both its sides.

        Stops at the first example that no bin can take; that one has been drawn from
        `examples` but is in no bin. Gives the bins that are not empty, a row each.

        Raises:
          ValueError: if an example is longer than a row.
        """
        bins: list[list[Example]] = [[] for _ in range(self.num_bins)]
        room = [(self.encoder_length, self.decoder_length)] * self.num_bins
        for example in examples:
            self._check_fits_a_row(example)
            needed = len(example.encoder_tokens), len(example.decoder_targets)
            for number, (encoder_room, decoder_room) in enumerate(room):
                if needed[0] <= encoder_room and needed[1] <= decoder_room:
                    bins[number].append(example)
                    room[number] = (encoder_room - needed[0], decoder_room - needed[1])
                    break
            else:
                break
        return [bin_ for bin_ in bins if bin_]

    def row(self, examples: Sequence[Example], bos: int) -> dict[str, np.ndarray]:
        """Lays examples in one row, in order; each is a segment 1, 2, ... of both sides.

        Args:
          examples: at least 1; together they fit the row.
          bos: id of `<s>`, which every segment's decoder input starts with.

        Returns:
          The arrays of `alexatm_jax.batch` without their batch axis, int32 [S] or [T].

        Raises:
          ValueError: if the examples do not fit.
        """
        sources = [example.encoder_tokens for example in examples]
        targets = [example.decoder_targets for example in examples]
        read, written = _lengths(sources), _lengths(targets)
        if read.sum() > self.encoder_length or written.sum() > self.decoder_length:
            raise ValueError(
                f"examples of {read.sum()} + {written.sum()} tokens were given for rows of "
                f"{self.encoder_length} + {self.decoder_length}; split or pack them first."
            )
        segments = np.arange(1, len(examples) + 1)
        first_positions = [example.first_position for example in examples]
        objective_ids = [example.objective_id for example in examples]
        encoder = {
            "encoder_input_tokens": np.concatenate(sources),
            "encoder_positions": _ramps(read) + np.repeat(first_positions, read),
            "encoder_segment_ids": np.repeat(segments, read),
        }
        decoder = {
            "decoder_input_tokens": _shifted_right(targets, bos),
            "decoder_target_tokens": np.concatenate(targets),
            "decoder_positions": _ramps(written),
            "decoder_segment_ids": np.repeat(segments, written),
            "decoder_objective_ids": np.repeat(objective_ids, written),
        }
        return {k: _padded(v, self.encoder_length) for k, v in encoder.items()} | {
            k: _padded(v, self.decoder_length) for k, v in decoder.items()
        }

    def _check_fits_a_row(self, example: Example) -> None:
        read, written = len(example.encoder_tokens), len(example.decoder_targets)
        if read > self.encoder_length or written > self.decoder_length:
            raise ValueError(
                f"an example has {read} + {written} tokens, a row {self.encoder_length} + "
                f"{self.decoder_length}; split its document first, with split_document."
            )


def _lengths(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(part) for part in parts])


def _ramps(lengths: np.ndarray) -> np.ndarray:
    """Counts 0, 1, ... anew in each segment."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _shifted_right(targets: Sequence[np.ndarray], bos: int) -> np.ndarray:
    shifted = np.roll(np.concatenate(targets), 1)
    shifted[np.cumsum([0, *map(len, targets[:-1])])] = bos
    return shifted


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    row = np.zeros(length, dtype=np.int32)
    row[: len(values)] = values
    return row
