"""A model that answers in text: prompts in, answers or scores out, batched by length."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from alexatm_jax.decoding.generate import Prompts, greedy
from alexatm_jax.decoding.scoring import score_choices
from alexatm_jax.model.transformer import Transformer


class TextVocabulary(Protocol):
    """What is asked of `data.vocabulary.Vocabulary`."""

    special: Any

    def encode(self, text: str) -> np.ndarray: ...

    def encode_prompt(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Any) -> str: ...

    def pieces_containing(self, text: str) -> np.ndarray: ...


class TextModel:
    """Generates and scores text with one set of parameters.

    Rows are sorted into buckets of similar length and padded to the bucket, so that the number of
    compilations is the number of buckets met; results come back in the order asked.

    Attributes:
      num_compilations: how many shapes were compiled so far.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        vocabulary: TextVocabulary,
        *,
        batch_size: int = 32,
        max_prompt_tokens: int | None = None,
        max_new_tokens: int = 64,
        length_bucket: int = 32,
        position_end: int | None = None,
    ):
        """Keeps the parameters where they are.

        Args:
          batch_size: rows computed at a time.
          max_prompt_tokens: longer prompts are refused; the model's positions by default.
          max_new_tokens: the most tokens of a generated answer.
          length_bucket: prompts and choices are padded to multiples of this.
          position_end: if set, positions of a prompt that begins with `[CLM]` end here, as in
            `CausalLM.position_end`; those of others count from 0, as in denoising.

        Raises:
          ValueError: if a length is beyond the model's positions, or prompts beyond position_end.
        """
        limit = model.config.max_positions
        self.max_prompt_tokens = max_prompt_tokens or position_end or limit
        for name, value in (
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("max_new_tokens", max_new_tokens),
            ("position_end", position_end or 0),
        ):
            if value > limit:
                raise ValueError(
                    f"{name} is {value}; the model has {limit} positions: lower {name}."
                )
        if position_end and self.max_prompt_tokens > position_end:
            raise ValueError(
                f"max_prompt_tokens is {self.max_prompt_tokens}; positions that end at "
                f"{position_end} have room for so many tokens: lower it, or raise position_end."
            )
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.length_bucket, self.position_end = length_bucket, position_end
        self._shapes: set[tuple] = set()
        bos = vocabulary.special.bos
        self._generate = jax.jit(
            functools.partial(greedy, model, max_new_tokens=max_new_tokens, bos_id=bos)
        )
        self._score = jax.jit(functools.partial(score_choices, model, bos_id=bos))

    @property
    def num_compilations(self) -> int:
        """How many shapes were compiled so far."""
        return len(self._shapes)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises ValueError naming the first prompt that is longer than max_prompt_tokens."""
        self._encode_prompts(prompts)

    def predict(self, prompts: Sequence[str], stop: str = "") -> list[str]:
        """Answers each prompt greedily, up to `</s>` or a piece that contains `stop`.

        Raises:
          ValueError: naming the first prompt that is longer than max_prompt_tokens.
        """
        ends_V = np.zeros(self.model.config.vocab_size, bool)
        ends_V[self.vocabulary.special.eos] = True
        if stop:
            containing = self.vocabulary.pieces_containing(stop)
            ends_V[: len(containing)] |= containing
        encoded = self._encode_prompts(prompts)
        answers = [""] * len(prompts)
        for rows in self._batches([len(ids) for ids in encoded]):
            batch = self._prompt_batch([encoded[row] for row in rows])
            self._shapes.add(("generate", *batch.tokens.shape))
            tokens_BT = np.asarray(self._generate(self.params, batch, ends_V=jnp.asarray(ends_V)))
            for row, tokens in zip(rows, tokens_BT, strict=False):
                answers[row] = self.vocabulary.decode(tokens[tokens > 0])
        return answers

    def score(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[list[float]]:
        """Gives each choice's cross-entropy, in mean nats per token; the lowest is likeliest.

        Raises:
          ValueError: if a prompt or a choice is too long, or a prompt has no choice.
        """
        encoded = self._encode_prompts(prompts)
        options = [[self._encode_choice(text) for text in texts] for texts in choices]
        if len(options) != len(encoded) or not all(options):
            raise ValueError(
                f"{len(encoded)} prompts came with {len(options)} lists of choices, the shortest "
                f"of {min(map(len, options), default=0)}; give each prompt at least one choice."
            )
        scores: list[list[float]] = [[] for _ in encoded]
        widths = [max(len(ids) for ids in texts) for texts in options]
        for rows in self._batches([len(ids) for ids in encoded]):
            batch = self._prompt_batch([encoded[row] for row in rows])
            most = max(len(options[row]) for row in rows)
            shape = (self.batch_size, most, self._bucket(max(widths[row] for row in rows)))
            choices_BCT = np.zeros(shape, np.int32)
            for index, row in enumerate(rows):
                for choice, ids in enumerate(options[row]):
                    choices_BCT[index, choice, : len(ids)] = ids
            self._shapes.add(("score", *batch.tokens.shape, *shape))
            nats_BC, counts_BC = map(np.asarray, self._score(self.params, batch, choices_BCT))
            means_BC = nats_BC / np.maximum(counts_BC, 1)
            for index, row in enumerate(rows):
                scores[row] = means_BC[index, : len(options[row])].tolist()
        return scores

    def _encode_prompts(self, prompts: Sequence[str]) -> list[np.ndarray]:
        encoded = [self.vocabulary.encode_prompt(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            self._check_length("prompt", prompt, len(ids), self.max_prompt_tokens)
        return encoded

    def _encode_choice(self, text: str) -> np.ndarray:
        ids = self.vocabulary.encode(text)
        self._check_length("choice", text, len(ids), self.model.config.max_positions)
        return ids

    @staticmethod
    def _check_length(what: str, text: str, length: int, most: int) -> None:
        if not 0 < length <= most:
            raise ValueError(
                f"a {what} has {length} tokens, {text[:80]!r}...; between 1 and {most} fit: "
                "shorten it, give fewer shots, or use a model with more positions."
            )

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Groups row numbers of one bucket, at most batch_size together."""
        order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
        buckets: dict[int, list[int]] = {}
        for row in order:
            buckets.setdefault(self._bucket(lengths[row]), []).append(row)
        for rows in buckets.values():
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size]

    def _bucket(self, length: int) -> int:
        rounded = -(-length // self.length_bucket) * self.length_bucket
        return min(rounded, self.model.config.max_positions)

    def _prompt_batch(self, rows: Sequence[np.ndarray]) -> Prompts:
        """Pads rows to their bucket and the batch to its size."""
        shape = (self.batch_size, self._bucket(max(map(len, rows))))
        batch = Prompts(*(np.zeros(shape, np.int32) for _ in Prompts._fields))
        for index, ids in enumerate(rows):
            end = self.position_end if ids[0] == self.vocabulary.special.clm else None
            start = 0 if end is None else end - len(ids)
            batch.tokens[index, : len(ids)] = ids
            batch.positions[index, : len(ids)] = start + np.arange(len(ids))
            batch.segment_ids[index, : len(ids)] = 1
        return batch
