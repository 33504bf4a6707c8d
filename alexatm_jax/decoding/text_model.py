"""A model that answers in text: prompts in, answers or scores out, batched by length."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.cpu_layout import on_cpu
from alexatm_jax.decoding.drafts import NO_TOKEN
from alexatm_jax.decoding.generate import generate
from alexatm_jax.decoding.row_arrays import prompt_arrays, text_arrays
from alexatm_jax.decoding.sampling import prompt_key
from alexatm_jax.decoding.scoring import score_texts
from alexatm_jax.decoding.stops import as_stops, cut, stop_table
from alexatm_jax.decoding.text_rows import Batch, Branch, Context, Prompt, Stem, batches, fill_rows
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import Partitioning, batch_sharding

T = TypeVar("T")


class TextVocabulary(Protocol):
    """What is asked of `data.vocabulary.Vocabulary`."""

    special: Any

    def encode(self, text: str) -> np.ndarray: ...

    def encode_prompt(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Any) -> str: ...

    def piece_bytes(self, *, first: bool) -> list[bytes]: ...


class Answer(NamedTuple):
    """A text, cut before its first stop, and its score: see `generate.Answers`."""

    text: str
    score: float


class Scored(NamedTuple):
    """Cross-entropy summed over a text's tokens, their number, and whether greedy takes them all.

    Of equally likely tokens greedy decoding takes the one of the lowest id.
    """

    nats: float
    num_tokens: int
    greedy: bool


Request = tuple[str, str, str]
"""What the encoder reads, what the decoder is given, and the text that is scored behind it."""


class TextModel:
    """Generates and scores text with one set of parameters.

    Every distinct prompt is answered once, and encoded once for as many scored texts as a row
    holds. Rows of similar length are padded alike, so that the number of compilations is the number
    of shapes met; results come back in the order asked. No token id is taken for padding: rows say
    by segment ids where they end, texts and answers by -1.

    Batches are planned from all that is asked. So a run that was interrupted and asks the same
    again, naming what is `done`, computes the batches that are left just as they would have been.
    Each part of a mesh computes a batch of its own, so that batches are the same on any number.

    Attributes:
      batch_size: rows computed at a time by each part of the mesh. A row is a prompt to answer; or
        prompts of `text_rows.ROW_TOKENS` together, or one longer one, with at most
        `text_rows.DECODER_TOKENS` tokens of texts to score.
      max_prompt_tokens: longer prompts are refused.
      max_answer_tokens: the most tokens that the decoder may be given and scored on together.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        vocabulary: TextVocabulary,
        config: DecodingConfig | None = None,
        *,
        partitioning: Partitioning | None = None,
        mesh: Mesh | None = None,
    ):
        """Keeps the parameters where they are.

        Args:
          config: greedy answers by default.
          partitioning, mesh: where the parameters live, if on several devices; rows are spread
            over `data` and `fsdp`.

        Raises:
          ValueError: if the config does not fit the model.
        """
        config = config or DecodingConfig()
        config.check_fits(model.config)
        self.model, self.params, self.vocabulary, self.config = model, params, vocabulary, config
        limit = model.config.max_positions
        self.max_prompt_tokens = config.max_prompt_tokens or config.position_end or limit
        self.max_answer_tokens = limit
        self._partitioning, self._mesh = partitioning or Partitioning(), mesh
        self._parts = mesh.shape["data"] * mesh.shape["fsdp"] if mesh else 1
        self.batch_size = config.batch_size
        self._shapes: set[tuple] = set()
        self._stop_tables: dict[tuple[str, ...], Array] = {}
        given = config.decoder_start_id
        self._start_id = vocabulary.special.bos if given is None else given
        self._generators: dict[int, Callable[..., Any]] = {}
        self._score = jax.jit(functools.partial(score_texts, model))

    def with_decoding(self, config: DecodingConfig) -> TextModel:
        """Gives a model of the same parameters that answers otherwise, nothing compiled yet."""
        return TextModel(
            self.model,
            self.params,
            self.vocabulary,
            config,
            partitioning=self._partitioning,
            mesh=self._mesh,
        )

    @property
    def num_compilations(self) -> int:
        """How many shapes were compiled so far."""
        return len(self._shapes)

    def count_tokens(self, prompt: str) -> int:
        """Counts a prompt's tokens, as the encoder would read them."""
        return len(self._prompt_ids(prompt))

    def count_answer_tokens(self, text: str) -> int:
        """Counts the tokens of a text that the decoder would be given or scored on."""
        return len(self.vocabulary.encode(text))

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises ValueError naming the first prompt that is longer than max_prompt_tokens."""
        for prompt in prompts:
            self._prompt(prompt)

    def predict(self, prompts: Sequence[str], stop: str | Sequence[str] = "") -> list[str]:
        """Gives the text of each prompt's first answer; see `answer`."""
        return [answers[0].text for answers in self.answer(prompts, stop)]

    def predict_batches(
        self,
        prompts: Sequence[str],
        *,
        stop: str | Sequence[str],
        max_new_tokens: int | None = None,
        done: Collection[int] = (),
    ) -> Iterator[dict[int, str]]:
        """Gives the texts of the first answers, by the prompts' indices, batch by batch.

        Args:
          stop: one text, or several.
          max_new_tokens: in place of the config's.
          done: indices of prompts whose answers are known: batches of these alone are left out.

        Raises:
          ValueError: as `answer`, before the first batch; or if max_new_tokens does not fit.
        """
        batches = self._answer_batches(prompts, as_stops(stop), max_new_tokens, done)
        return ({row: found[0].text for row, found in answers.items()} for answers in batches)

    def answer(self, prompts: Sequence[str], stop: str | Sequence[str] = "") -> list[list[Answer]]:
        """Answers each prompt as the config says, up to `</s>` or a stop.

        A row ends with the piece that completes a stop, also one that several pieces spell.

        Args:
          stop: one text, or several.

        Returns:
          For each prompt `config.num_answers` answers, draws in their order, beams best first;
          beams may find fewer, but one at least.

        Raises:
          ValueError: naming the first prompt that is longer than max_prompt_tokens, or if a stop
            is empty.
        """
        return _in_order(self._answer_batches(prompts, as_stops(stop)), len(prompts))

    def score(self, requests: Sequence[Request]) -> list[Scored]:
        """Scores texts in the order of the requests; see `score_batches`."""
        return _in_order(self.score_batches(requests), len(requests))

    def score_batches(
        self, requests: Sequence[Request], *, done: Collection[int] = ()
    ) -> Iterator[dict[int, Scored]]:
        """Gives the cross-entropy of texts, by their requests' indices, batch by batch.

        Given and scored text are tokenized apart. Requests with the same prompt share one pass of
        the encoder and one set of cross-attention keys and values; those with the same given text
        besides share the decoder's pass over it.

        Args:
          requests: prompt, given text, which may be empty, and scored text.
          done: indices of requests whose scores are known: batches of these alone are left out.

        Raises:
          ValueError: before the first batch, if a prompt or a text has no token or too many.
        """
        limit, known = self.model.config.max_positions, frozenset(done)
        rows = fill_rows(self._contexts(requests), limit)
        wanted = [
            batch
            for batch in batches(rows, self.batch_size, limit)
            if not known.issuperset(index for row in batch.rows for index in row.requests)
        ]
        return map(self._score_together, _alike(wanted, lambda batch: batch.shape, self._parts))

    def _score_together(self, alike: Sequence[Batch]) -> dict[int, Scored]:
        """Scores batches of one shape, one on each part of the mesh."""
        shape = alike[0].size, alike[0].length
        padded = [*alike, *[alike[0]._replace(rows=())] * (self._parts - len(alike))]
        prompts = [prompt_arrays([row.prompts for row in batch.rows], shape) for batch in padded]
        texts, places = zip(*(text_arrays(batch, self._start_id) for batch in padded), strict=True)
        self._shapes.add(("score", *alike[0].shape))
        rows = {"prompts": _joined(prompts), "texts": _joined(texts)}
        nats_GE, greedy_GE = self._run(self._score, rows)
        scores: dict[int, Scored] = {}
        for part, own in enumerate(places):
            for requests, begin, end in own:
                nats = float(nats_GE[part, begin:end].sum(dtype=np.float64))
                greedy = bool(greedy_GE[part, begin:end].all())
                scores |= dict.fromkeys(requests, Scored(nats, end - begin, greedy))
        return scores

    def _contexts(self, requests: Sequence[Request]) -> list[Context]:
        """Gathers requests by prompt, then by given text, then by scored text."""
        asked: dict[str, dict[str, dict[str, list[int]]]] = {}
        for index, (prompt, given, text) in enumerate(requests):
            texts = asked.setdefault(prompt, {}).setdefault(given, {})
            texts.setdefault(text, []).append(index)
        encode = functools.cache(self.vocabulary.encode)

        def stem(given: str, texts: dict[str, list[int]]) -> Stem:
            for text in texts:
                self._check_length("choice", text, len(encode(text)), self.max_answer_tokens)
                both = len(encode(given)) + len(encode(text))
                self._check_length("decoder text", given + text, both, self.max_answer_tokens)
            branches = [Branch(encode(text), indices) for text, indices in texts.items()]
            return Stem(encode(given), branches)

        return [
            Context(self._prompt(prompt), [stem(*item) for item in stems.items()])
            for prompt, stems in asked.items()
        ]

    def _answer_batches(
        self,
        prompts: Sequence[str],
        stops: tuple[str, ...],
        max_new_tokens: int | None = None,
        done: Collection[int] = (),
    ) -> Iterator[dict[int, list[Answer]]]:
        if max_new_tokens is None:
            max_new_tokens = self.config.max_new_tokens
        self._generator(max_new_tokens)  # refuses what does not fit
        asked: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            asked.setdefault(prompt, []).append(index)
        encoded, indices = [self._prompt(prompt) for prompt in asked], list(asked.values())
        known = frozenset(done)

        def bucket(rows: list[int]) -> int:
            return self._bucket(max(len(encoded[row].tokens) for row in rows))

        def answers(alike: list[list[int]]) -> dict[int, list[Answer]]:
            prompts = [[encoded[row] for row in rows] for rows in alike]
            found = self._answer_together(prompts, bucket(alike[0]), max_new_tokens, stops)
            pairs = zip(itertools.chain.from_iterable(alike), found, strict=True)
            return {index: texts for row, texts in pairs for index in indices[row]}

        wanted = [
            rows
            for rows in self._batches([len(prompt.tokens) for prompt in encoded])
            if not known.issuperset(index for row in rows for index in indices[row])
        ]
        return map(answers, _alike(wanted, bucket, self._parts))

    def _answer_together(
        self,
        alike: Sequence[Sequence[Prompt]],
        length: int,
        max_new_tokens: int,
        stops: tuple[str, ...],
    ) -> list[list[Answer]]:
        """Answers batches of one length, one on each part of the mesh."""
        shape = self.batch_size, length
        padded = [*alike, *[()] * (self._parts - len(alike))]
        batch = _joined([prompt_arrays([[p] for p in own], shape) for own in padded])
        keys_B2 = np.zeros((self._parts, self.batch_size, 2), np.uint32)
        for keys, own in zip(keys_B2, alike, strict=False):
            keys[: len(own)] = [prompt_key(self.config.seed, p.tokens) for p in own]
        stops_QV = self._stop_table(stops)
        self._shapes.add(("generate", max_new_tokens, *shape, len(stops_QV)))
        tokens_BAT, scores_BA = self._run(
            self._generator(max_new_tokens),
            {"prompts": batch, "keys_B2": keys_B2.reshape(-1, 2)},
            stops_QV=stops_QV,
        )
        return [
            self._texts(tokens_BAT[row], scores_BA[row], stops)
            for part, own in enumerate(alike)
            for row in range(part * self.batch_size, part * self.batch_size + len(own))
        ]

    def _generator(self, max_new_tokens: int) -> Callable[..., Any]:
        if max_new_tokens not in self._generators:
            config = dataclasses.replace(self.config, max_new_tokens=max_new_tokens)
            config.check_fits(self.model.config)
            ids = dict(start_id=self._start_id, eos_id=self.vocabulary.special.eos)
            function = functools.partial(
                generate, self.model, config=config, cpu_layout=on_cpu(self.params), **ids
            )
            self._generators[max_new_tokens] = jax.jit(function)
        return self._generators[max_new_tokens]

    def _run(
        self, compiled: Callable[..., Any], rows: dict[str, Any], **shared: Any
    ) -> list[np.ndarray]:
        """Calls a compiled function; of a mesh, every device gets some of the host rows."""
        if self._mesh is None:
            outputs = compiled(self.params, **rows, **shared)
        else:
            rows = jax.device_put(rows, batch_sharding(self._mesh))
            with jax.set_mesh(self._mesh), nn.logical_axis_rules(self._partitioning.rules):
                outputs = compiled(self.params, **rows, **shared)
        return [np.asarray(output) for output in outputs]

    def _texts(
        self, tokens_AT: np.ndarray, scores_A: np.ndarray, stops: Sequence[str]
    ) -> list[Answer]:
        found = max(1, int(np.isfinite(scores_A).sum()))
        return [
            Answer(cut(self.vocabulary.decode(tokens_T[tokens_T != NO_TOKEN]), stops), float(score))
            for tokens_T, score in zip(tokens_AT[:found], scores_A, strict=False)
        ]

    def _stop_table(self, stops: tuple[str, ...]) -> Array:
        if stops not in self._stop_tables:
            first, later = (self.vocabulary.piece_bytes(first=flag) for flag in (True, False))
            table = stop_table(stops, first, later, self.vocabulary.special.eos)
            # What the vocabulary does not know it shows as it shows `<unk>`.
            unknown_Q1 = table[:, [self.vocabulary.special.unk]]
            missing = self.model.config.vocab_size - table.shape[1]
            table = np.concatenate([table, np.repeat(unknown_Q1, missing, axis=1)], axis=1)
            self._stop_tables[stops] = jax.device_put(table)
        return self._stop_tables[stops]

    def _prompt_ids(self, prompt: str) -> np.ndarray:
        ids, special = self.vocabulary.encode_prompt(prompt), self.vocabulary.special
        if self.config.wrap_prompts and len(ids):
            return np.r_[special.bos, ids, special.eos].astype(np.int32)
        return ids

    def _prompt(self, prompt: str) -> Prompt:
        ids = self._prompt_ids(prompt)
        self._check_length("prompt", prompt, len(ids), self.max_prompt_tokens)
        continued = ids[int(self.config.wrap_prompts)] == self.vocabulary.special.clm
        end = self.config.position_end if continued else None
        return Prompt(ids, 0 if end is None else end - len(ids))

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
        rounded = -(-length // self.config.length_bucket) * self.config.length_bucket
        return min(rounded, self.model.config.max_positions)


def _in_order(batches: Iterator[dict[int, Any]], count: int) -> list[Any]:
    found = {index: answer for batch in batches for index, answer in batch.items()}
    return [found[index] for index in range(count)]


def _alike(batches: Iterable[T], shape: Callable[[T], Any], most: int) -> Iterator[list[T]]:
    """Gives neighbours of one shape together, so many at most."""
    for _, group in itertools.groupby(batches, shape):
        while together := list(itertools.islice(group, most)):
            yield together


def _joined(parts: Sequence[Any]) -> Any:
    """Lays arrays of a tree one behind the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
