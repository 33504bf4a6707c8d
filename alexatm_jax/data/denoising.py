"""Drops spans of a token sequence; the decoder then reconstructs the whole (recipe §3)."""

from __future__ import annotations

import functools
import math
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
        droppable = _is_droppable(tokens, special)
        kept = ~droppable
        kept[droppable] = self._kept(int(np.count_nonzero(droppable)), rng)
        return tokens[kept], np.append(tokens, np.int32(special.eos))

    def spec(self) -> dict[str, Any]:
        """Gives the JSON-able dict that `objective_from_spec` reads back."""
        return {"kind": self.kind, **asdict(self)}

    def drop_count(self, droppable: np.ndarray | int) -> np.ndarray:
        """Says how many of so many droppable tokens go: the rate, rounded half up.

        One droppable token always stays, so that the encoder never reads nothing.
        """
        # The small term keeps ties of decimal rates, such as 0.145 x 100, from falling on
        # the side that binary fractions happen to put them.
        rounded = np.floor(self.drop_rate * np.asarray(droppable) + 0.5 + 1e-9)
        return np.minimum(rounded, np.maximum(droppable, 1) - 1).astype(int)

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
        droppable = np.cumsum(_is_droppable(head, special))
        kept = np.arange(1, len(head) + 1) - self.drop_count(droppable)
        return int(np.searchsorted(kept, encoder_length, side="right"))

    def split_document(
        self, tokens: np.ndarray, encoder_length: int, decoder_length: int
    ) -> list[np.ndarray]:
        """Cuts a document into the fewest pieces, as even as can be, that fit any noise."""
        return even_pieces(tokens, min(encoder_length, decoder_length - 1))

    def _kept(self, droppable: int, rng: np.random.Generator) -> np.ndarray:
        """Picks the droppable tokens that stay, as bool [droppable].

        The spans go into distinct gaps around the kept tokens, all choices being equally
        likely: so spans never touch. Only at rates that leave more spans than gaps must
        some share one.
        """
        count = int(self.drop_count(droppable))
        lengths = self._span_lengths(count, rng)
        gaps = droppable - count + 1
        slots = rng.choice(gaps, size=len(lengths), replace=len(lengths) > gaps)
        dropped_before = np.cumsum(np.bincount(slots, lengths, minlength=gaps).astype(int))
        kept = np.zeros(droppable, dtype=bool)
        kept[(np.arange(gaps) + dropped_before)[:-1]] = True
        return kept

    def _span_lengths(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws lengths until they cover `count` tokens; the last is trimmed to that.

        A length of zero drops nothing, so only positive ones are kept.
        """
        expected = int(count / self.mean_span_length)
        drawn = np.zeros(0, dtype=int)
        while drawn.sum() < count:
            more = rng.poisson(self.mean_span_length, expected + 16)
            drawn = np.concatenate([drawn, more[more > 0]])
        covered = np.cumsum(drawn)
        lengths = drawn[: np.searchsorted(covered, count) + 1] if count else drawn
        lengths[-1:] -= lengths.sum() - count
        return lengths


def _is_droppable(tokens: np.ndarray, special: SpecialIds) -> np.ndarray:
    return ~(tokens == _protected_ids(special)[:, None]).any(axis=0)


@functools.cache  # one vocabulary, and this runs once per example
def _protected_ids(special: SpecialIds) -> np.ndarray:
    return np.array(sorted(special.protected), dtype=np.int32)
