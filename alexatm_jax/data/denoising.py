"""Drops spans of a token sequence; the decoder then reconstructs the whole (recipe §3)."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from alexatm_jax.data.pieces import even_pieces
from alexatm_jax.data.vocabulary import SpecialIds


@dataclass(frozen=True)
class Denoising:
    """Drops spans of Poisson length and leaves nothing in their place.

    Args:
      drop_rate: share of the droppable tokens that goes, in (0, 1).
      mean_span_length: mean, in tokens, of the Poisson law of span lengths.

    Raises:
      ValueError: if either is out of range.

    Source: 15 % and Poisson(3), without mask or sentinel tokens, arXiv:2208.01448, Sec. 4;
    recipe §3.
    """

    drop_rate: float = 0.15
    mean_span_length: float = 3.0

    kind: ClassVar[str] = "denoising"
    fewest_tokens: ClassVar[int] = 1
    position_end: ClassVar[int | None] = None  # encoder positions count from 0
    writes_all: ClassVar[bool] = True
    joins_documents: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.drop_rate < 1:
            raise ValueError(
                f"drop_rate is {self.drop_rate}; it is a share of the tokens, above 0 and "
                "below 1; the paper's is 0.15."
            )
        if not (self.mean_span_length > 0 and math.isfinite(self.mean_span_length)):
            raise ValueError(
                f"mean_span_length is {self.mean_span_length}; give a positive number of "
                "tokens; the paper's is 3."
            )

    def __call__(
        self, tokens: np.ndarray, special: SpecialIds, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Noises one sequence.

        Special tokens, `[DOC]` among them, are never dropped. Spans are laid over the
        droppable tokens alone, so one may end a document and go on behind its `[DOC]`.

        Args:
          tokens: int32 [N], N >= 1, without `<s>` and `</s>`.
          special: ids of the vocabulary's special tokens.
          rng: where randomness comes from; equal states give equal results.

        Returns:
          Encoder tokens, int32 [N - drop_count], and decoder targets, int32 [N + 1]: all of
          `tokens` and `</s>`.

        Raises:
          ValueError: if there is no token.
        """
        if len(tokens) == 0:
            raise ValueError("denoising got no token; it needs one or more; skip it.")
        num_read = self.num_read(tokens, special, rng.random)
        one = np.array([len(tokens)]), np.array([num_read])
        kept = self.read_mask(tokens, *one, special, rng)
        return tokens[kept], np.append(tokens, np.int32(special.eos))

    def prefix(self, special: SpecialIds) -> tuple[int, ...]:
        """Gives what the encoder reads before the text: nothing."""
        return ()

    def num_read(self, tokens: np.ndarray, special: SpecialIds, random: Callable[[], float]) -> int:
        """Counts the tokens that the encoder will read; nothing is left to chance here."""
        return len(tokens) - self.drop_count(int(np.count_nonzero(_droppable(tokens, special))))

    def read_mask(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        num_read: np.ndarray,
        special: SpecialIds,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Draws the tokens that the encoder reads, in many sequences at once.

        Args:
          tokens: int32 [sum of N], sequences one behind the other.
          lengths: int [sequences], N of each, N >= 1.
          num_read: int [sequences], what `num_read` says of each.
          special: ids of the vocabulary's special tokens.
          rng: where randomness comes from.

        Returns:
          bool [sum of N].
        """
        droppable = _droppable(tokens, special)
        begins = np.cumsum(lengths) - lengths
        counts = np.add.reduceat(droppable, begins, dtype=np.int64)
        mask = ~droppable
        mask[droppable] = self._kept(counts, lengths - num_read, rng)
        return mask

    def spec(self) -> dict[str, Any]:
        """Gives the JSON-able dict that `objective_from_spec` reads back."""
        return {"kind": self.kind, **asdict(self)}

    def drop_count(self, droppable: int) -> int:
        """Says how many of so many droppable tokens go: the rate, rounded half up.

        One droppable token always stays, so that the encoder never reads nothing.
        """
        # The small term keeps ties of decimal rates, such as 0.145 x 100, from falling on
        # the side that binary fractions happen to put them.
        rounded = math.floor(self.drop_rate * droppable + 0.5 + 1e-9)
        return min(rounded, max(droppable, 1) - 1)

    def longest_prefix(
        self,
        tokens: np.ndarray,
        special: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> int:
        """Counts the first tokens that, noised, fill a row of these lengths but fit it.

        The encoder reads fewer tokens than the decoder writes, so an `encoder_length` of
        about 0.85 `decoder_length` wastes neither side.
        """
        head = tokens[: decoder_length - 1]
        droppable = np.cumsum(_droppable(head, special))

        def kept(length: int) -> int:
            return length - self.drop_count(int(droppable[length - 1]))

        return bisect.bisect_right(range(1, len(head) + 1), encoder_length, key=kept)

    def longest_piece(self, encoder_length: int, decoder_length: int) -> int:
        """Counts the most tokens that fit a row whichever of them go."""
        return min(encoder_length, decoder_length - 1)

    def split_document(
        self, tokens: np.ndarray, encoder_length: int, decoder_length: int
    ) -> list[np.ndarray]:
        """Cuts a document into the fewest pieces, as even as can be, that fit any noise."""
        return even_pieces(tokens, self.longest_piece(encoder_length, decoder_length))

    def _kept(
        self, droppable: np.ndarray, dropped: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Picks the droppable tokens that stay, as bool [sum of droppable].

        Spans go into the gaps before, between and behind the tokens that stay. Those of one
        sequence take distinct gaps, all choices being equally likely: so spans never touch.
        Only at rates that leave more spans than gaps must some share one.

        Args:
          droppable: int [sequences], droppable tokens of each.
          dropped: int [sequences], how many of them go.
          rng: where randomness comes from.
        """
        spans, owners = self._spans(dropped, rng)
        gaps = droppable - dropped + 1
        first_gap = np.cumsum(gaps) - gaps
        gap_owners = np.repeat(np.arange(len(gaps)), gaps)
        # Shuffles the gaps within each sequence; its spans take the first ones.
        order = np.argsort(gap_owners + rng.random(len(gap_owners)), kind="stable")
        slots = order[first_gap[owners] + _ranks(owners, len(gaps)) % gaps[owners]]
        dropped_before = np.cumsum(np.bincount(slots, spans, minlength=len(order)).astype(int))
        # Every gap but the last of a sequence lies before a token that stays. Gaps count one
        # more than those tokens in each sequence, by which earlier sequences shift later ones.
        places = np.arange(len(order)) + dropped_before - gap_owners
        kept = np.zeros(droppable.sum(), dtype=bool)
        kept[np.delete(places, first_gap + gaps - 1)] = True
        return kept

    def _spans(
        self, dropped: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws span lengths, int [spans], that cover `dropped` tokens of each sequence.

        The last of a sequence is trimmed to that. Also gives the sequence each belongs to.
        """
        owners = np.repeat(np.arange(len(dropped)), dropped)  # as if all had length 1
        chances = rng.random(len(owners))
        most = int(dropped.max(initial=0))
        lengths = _span_law(self.mean_span_length, most).searchsorted(chances, side="right") + 1
        covered = np.cumsum(lengths)
        before = covered - lengths
        first = np.cumsum(dropped) - dropped
        before -= before[first[owners]]
        needed = before < dropped[owners]
        owners = owners[needed]
        return np.minimum(lengths[needed], dropped[owners] - before[needed]), owners


def _ranks(owners: np.ndarray, num_owners: int) -> np.ndarray:
    """Numbers the elements of each owner from 0; `owners` is sorted."""
    counts = np.bincount(owners, minlength=num_owners)
    return np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


@functools.lru_cache
def _span_law(mean: float, most: int) -> np.ndarray:
    """Tabulates P(length <= n) of a Poisson length above 0 at n = 1 to most - 1.

    A length of zero drops nothing, so it is never drawn. Lengths from `most` on, which are
    trimmed to that, are as likely as what the table leaves.
    """
    lengths = np.arange(1, most)
    log_factorials = np.cumsum(np.log(lengths))
    log_odds = lengths * math.log(mean) - log_factorials - mean
    return np.cumsum(np.exp(log_odds)) / -math.expm1(-mean)


def _droppable(tokens: np.ndarray, special: SpecialIds) -> np.ndarray:
    return _droppable_ids(special).take(tokens, mode="clip")


@functools.cache  # one vocabulary, and this runs once per document
def _droppable_ids(special: SpecialIds) -> np.ndarray:
    """Says of each id whether it may go; the last entry stands for all higher ids."""
    table = np.ones(max(special.protected) + 2, dtype=bool)
    table[list(special.protected)] = False
    return table
