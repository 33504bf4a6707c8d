"""Shows the first part of one document; the decoder then continues it (recipe §3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from alexatm_jax.data.pieces import even_pieces
from alexatm_jax.data.vocabulary import SpecialIds


@dataclass(frozen=True)
class CausalLM:
    """Cuts one document in two at a uniformly drawn fraction.

    Args:
      min_fraction: least share of the document that the encoder reads.
      max_fraction: greatest such share.
      position_end: if set, n encoder tokens take the positions position_end - n to
        position_end - 1, so that positions count from the cut; else 0 to n - 1. The paper
        does not say; the demo's one-shot ability was found with it.

    Raises:
      ValueError: unless 0 <= min_fraction <= max_fraction <= 1 and position_end > 0.

    Source: `[CLM]` + 20 % to 80 % of one document, arXiv:2208.01448, Sec. 4; recipe §3.
    """

    min_fraction: float = 0.2
    max_fraction: float = 0.8
    position_end: int | None = None

    kind: ClassVar[str] = "clm"
    fewest_tokens: ClassVar[int] = 2
    writes_all: ClassVar[bool] = False
    joins_documents: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_fraction <= self.max_fraction <= 1:
            raise ValueError(
                f"fractions go from {self.min_fraction} to {self.max_fraction}; they must "
                "rise and lie within 0 and 1; the paper's are 0.2 and 0.8."
            )
        if self.position_end is not None and self.position_end < 1:
            raise ValueError(
                f"position_end is {self.position_end}; give the encoder's length to align "
                "its tokens to the right, or None."
            )

    def __call__(
        self, tokens: np.ndarray, special: SpecialIds, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts one document.

        The encoder gets k = floor(fraction x N) tokens, but at least 1 and at most N - 1,
        with the fraction uniform from min_fraction to max_fraction.

        Args:
          tokens: int32 [N], N >= 2, one document or a piece of one.
          special: ids of the vocabulary's special tokens.
          rng: where randomness comes from; equal states give equal results.

        Returns:
          Encoder tokens, int32 [k + 1]: `[CLM]` and the first k tokens; decoder targets,
          int32 [N - k + 1]: the rest and `</s>`.

        Raises:
          ValueError: if there are fewer than 2 tokens.
        """
        if len(tokens) < 2:
            raise ValueError(
                f"a document of {len(tokens)} tokens cannot be cut in two; CLM needs at "
                "least 2; skip it, as split_document does."
            )
        shown = self.num_read(tokens, special, rng.random)
        encoder_tokens = np.concatenate([self.prefix(special), tokens[:shown]], dtype=np.int32)
        return encoder_tokens, np.append(tokens[shown:], np.int32(special.eos))

    def prefix(self, special: SpecialIds) -> tuple[int, ...]:
        """Gives what the encoder reads before the text: `[CLM]`."""
        return (special.clm,)

    def num_read(self, tokens: np.ndarray, special: SpecialIds, random: Callable[[], float]) -> int:
        """Draws how many tokens the encoder reads; `random` is uniform over [0, 1)."""
        fraction = self.min_fraction + (self.max_fraction - self.min_fraction) * random()
        return _shown(len(tokens), min(fraction, self.max_fraction))

    def read_mask(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        num_read: np.ndarray,
        special: SpecialIds,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Marks the first tokens of many sequences at once; arguments as in Denoising's."""
        begins = np.cumsum(lengths) - lengths
        return np.arange(len(tokens)) < np.repeat(begins + num_read, lengths)

    def spec(self) -> dict[str, Any]:
        """Gives the JSON-able dict that `objective_from_spec` reads back."""
        return {"kind": self.kind, **asdict(self)}

    def split_document(
        self, tokens: np.ndarray, encoder_length: int, decoder_length: int
    ) -> list[np.ndarray]:
        """Cuts a document into the fewest pieces that fit a row wherever they are cut.

        The pieces are even to within one token, so none is too short to be cut in two, and
        none of the document is lost. A document of fewer than 2 tokens gives no piece.

        Raises:
          ValueError: if no piece of 3 tokens fits lengths so small.
        """
        longest = self.longest_piece(encoder_length, decoder_length)
        return even_pieces(tokens, longest) if len(tokens) > 1 else []

    def longest_piece(self, encoder_length: int, decoder_length: int) -> int:
        """Counts the most tokens that fit a row wherever they are cut.

        Raises:
          ValueError: if 3 tokens do not.
        """

        def fits(length: int) -> bool:
            most_shown = _shown(length, self.max_fraction)
            least_shown = _shown(length, self.min_fraction)
            return most_shown < encoder_length and length - least_shown < decoder_length

        longest = _last_true(fits, 2, encoder_length + decoder_length)
        # Three tokens can be cut in pieces of at most 2 only by leaving a single one.
        if longest < 3:
            raise ValueError(
                f"rows of {encoder_length} + {decoder_length} tokens hold pieces of only "
                f"{longest}; CLM with fractions {self.min_fraction} to {self.max_fraction} "
                "needs 3; use longer rows."
            )
        return longest


def _shown(length: int, fraction: float) -> int:
    return min(max(int(fraction * length), 1), length - 1)


def _last_true(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Bisects for the last integer of [low, high] at which a falling predicate holds.

    Gives low - 1 if there is none.
    """
    while low <= high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if holds(middle) else (low, middle - 1)
    return high
