"""Drafts that go on each by itself: the likeliest token, or a drawn one."""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.drafts import Drafts
from alexatm_jax.decoding.limits import Limits


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Greedy answers at temperature 0, independent draws above.

    Of equally likely tokens the greedy answer takes the lowest id. A draw is the likeliest token
    of the truncated logits after Gumbel noise, whose key is folded from the prompt's key, the
    number of the answer and the position: the same prompt gets the same answers in any batch.

    Attributes:
      limits: what may not be taken.
      keys_B2: uint32 [B, 2], from `prompt_key`; unused at temperature 0.
    """

    limits: Limits
    keys_B2: Array | None

    def start(self, drafts: Drafts) -> Drafts:
        """Begins with all drafts."""
        return drafts

    def drafts(self, state: Drafts) -> Drafts:
        """Gives the drafts that the model goes on with: the state is nothing else."""
        return state

    def step(self, drafts: Drafts, logits_BWV: Array, position: Array) -> Drafts:
        """Adds one token to every draft."""
        allowed_BWV = self.limits.apply(logits_BWV, drafts, position)
        if self.limits.config.temperature > 0:
            allowed_BWV = truncated(allowed_BWV, self.limits.config) + self._noise(
                allowed_BWV.shape, position
            )
        tokens_BW = likeliest(allowed_BWV)
        log_probs_BWV = jax.nn.log_softmax(logits_BWV)
        taken_BW1 = jnp.take_along_axis(log_probs_BWV, tokens_BW[..., None], axis=-1)
        return drafts.followed_by(tokens_BW, taken_BW1[..., 0], position, self.limits.stops_QV)

    def unfinished(self, drafts: Drafts) -> Array:
        """Whether any draft goes on, bool scalar."""
        return ~drafts.ended_BW.all()

    def answers(self, drafts: Drafts) -> tuple[Array, Array]:
        """Gives tokens [B, W, T] and scores [B, W], in the order of the draws."""
        return drafts.tokens_BWL[..., 1:], drafts.scores(self.limits.config.length_penalty)

    def _noise(self, shape: tuple[int, ...], position: Array) -> Array:
        _, num_drafts, num_rows = shape

        def gumbel(key_data: Array, answer: Array) -> Array:
            key = jax.random.wrap_key_data(key_data, impl="threefry2x32")
            key = jax.random.fold_in(jax.random.fold_in(key, answer), position)
            return jax.random.gumbel(key, (num_rows,))

        assert self.keys_B2 is not None
        per_answer = jax.vmap(gumbel, in_axes=(None, 0))
        per_row = jax.vmap(per_answer, in_axes=(0, None))
        noise_BWV: Array = per_row(self.keys_B2, jnp.arange(num_drafts))
        return noise_BWV


def likeliest(scores_BWV: Array) -> Array:
    """Gives the lowest id of those with the highest score, int32 [B, W].

    As `argmax`, in two passes that CPUs vectorise: they take a tenth of its time.
    """
    best_BW1 = scores_BWV.max(axis=-1, keepdims=True)
    ids_V = jnp.arange(scores_BWV.shape[-1], dtype=jnp.int32)
    last = scores_BWV.shape[-1] - 1  # not a number is equal to nothing
    return jnp.where(scores_BWV == best_BW1, ids_V[None, None], last).min(axis=-1)


def prompt_key(seed: int, prompt_ids: np.ndarray) -> np.ndarray:
    """Hashes a seed and a prompt to the key of its draws, uint32 [2]."""
    content = f"{seed}:".encode() + np.asarray(prompt_ids, "<i4").tobytes()
    return np.frombuffer(hashlib.sha256(content).digest()[:8], "<u4").astype(np.uint32)


def truncated(logits_BWV: Array, config: DecodingConfig) -> Array:
    """Divides logits by the temperature, then leaves top_k, then top_p of them.

    `top_k` keeps those at least as likely as the k-th; `top_p` keeps the fewest likeliest whose
    probabilities, among what is left, sum to top_p or more; tokens as likely as the last one kept
    are kept too.

    Returns:
      float32 of the same shape, -inf where a token is left out.

    Source: arXiv:1805.04833, Sec. 5.4 (top-k); arXiv:1904.09751, Sec. 3.1 (nucleus, top-p).
    """
    logits_BWV = logits_BWV / config.temperature
    if config.top_k:
        best_BWK, _ = jax.lax.top_k(logits_BWV, min(config.top_k, logits_BWV.shape[-1]))
        logits_BWV = jnp.where(logits_BWV < best_BWK[..., -1:], -jnp.inf, logits_BWV)
    if config.top_p < 1:
        falling_BWV = jnp.sort(logits_BWV, axis=-1, descending=True)
        probs_BWV = jax.nn.softmax(falling_BWV)
        before_BWV = jnp.cumsum(probs_BWV, axis=-1) - probs_BWV
        kept_BWV = jnp.where(before_BWV < config.top_p, falling_BWV, jnp.inf)
        least_BW1 = kept_BWV.min(axis=-1, keepdims=True)
        logits_BWV = jnp.where(logits_BWV < least_BW1, -jnp.inf, logits_BWV)
    return logits_BWV
