"""Measures a cached mixture as its reader serves it: shares, fill, lengths, examples, speed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alexatm_jax.data import cache
from alexatm_jax.data.cache import MixtureSpec, PathLike, Provenance, TaskSpec
from alexatm_jax.data.corpora.token_files import TokenFiles
from alexatm_jax.data.inspection.traced_rows import Row, Segment, traced_rows
from alexatm_jax.data.mixture_report import Drift, drift
from alexatm_jax.data.pipeline import BatchReader, ReaderConfig
from alexatm_jax.data.vocabulary import SpecialIds, Vocabulary

_SAMPLED_DOCUMENTS = 1_000_000
_SAMPLED_BLOCKS = 100


@dataclass(frozen=True)
class Lengths:
    """Document lengths of a corpus, in tokens.

    Attributes:
      edges: int [bins + 1], rising; bin i holds lengths in [edges[i], edges[i + 1]).
      counts: int [bins], documents.
      mean, median, percentile_99, longest: of the documents counted.
      num_documents: documents in the corpus; more than were counted if it is large.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean: float
    median: float
    percentile_99: float
    longest: int
    num_documents: int


@dataclass(frozen=True)
class Inspection:
    """All that a report tells of a mixture.

    Attributes:
      spec: its tasks and their rates.
      provenances: of its corpora, by name.
      vocabulary: turns tokens to text.
      config: how its rows are made.
      statistics: what `BatchReader.statistics` gave behind the last batch.
      encoder_fill, decoder_fill: float [batches], share of each batch that is not padding.
      seconds: that reading the batches took.
      lengths: of the documents, by corpus.
      examples: some of each task, by its name.
      rows: the first of the mixture.
    """

    spec: MixtureSpec
    provenances: Mapping[str, Provenance]
    vocabulary: Vocabulary
    config: ReaderConfig
    statistics: Mapping[str, Any]
    encoder_fill: np.ndarray
    decoder_fill: np.ndarray
    seconds: float
    lengths: Mapping[str, Lengths]
    examples: Mapping[str, Sequence[Segment]]
    rows: Sequence[Row]

    @property
    def tokens_per_second(self) -> float:
        """Encoder and decoder tokens, without padding."""
        config = self.config
        filled = config.encoder_length * self.encoder_fill + config.decoder_length * (
            self.decoder_fill
        )
        return float(filled.sum() * config.batch_size / self.seconds)

    @property
    def drift(self) -> Drift:
        """The shares of the text tokens that were read, beside those of the mixture."""
        return drift(self.statistics, self.spec)


def inspect_mixture(
    cache_dir: PathLike,
    mixture: str,
    config: ReaderConfig,
    *,
    num_batches: int,
    num_examples: int,
    num_rows: int = 4,
) -> Inspection:
    """Reads some batches of a mixture and some examples of each of its tasks.

    Args:
      cache_dir: folder of the cache.
      mixture: a mixture in it.
      config: how training is to read it.
      num_batches: how many to measure, at least 1.
      num_examples: of each task, at least 1.
      num_rows: how many of the first batch to keep, at most.

    Raises:
      ValueError: if a number is below 1, the cache lacks the mixture or a part of it, or
        `BatchReader` refuses to read it so.
    """
    if min(num_batches, num_examples, num_rows) < 1:
        raise ValueError(
            f"{num_batches} batches, {num_examples} examples and {num_rows} rows are asked "
            "for; a report needs at least 1 of each."
        )
    spec = cache.read_mixture(cache_dir, mixture)
    vocabulary = cache.read_vocabulary(cache_dir)
    corpora = cache.read_corpora(cache_dir, spec.corpora)
    sources = {name: corpus.source for name, corpus in corpora.items()}
    reader = BatchReader(sources, spec.tasks, vocabulary.special, config)
    encoder_fill, decoder_fill, seconds = _read(reader, num_batches)
    return Inspection(
        spec,
        {name: corpus.provenance for name, corpus in corpora.items()},
        vocabulary,
        config,
        reader.statistics(),
        encoder_fill,
        decoder_fill,
        seconds,
        {name: document_lengths(source) for name, source in sources.items()},
        _examples(sources, spec.tasks, vocabulary.special, config, num_examples),
        traced_rows(sources, spec.tasks, vocabulary.special, config)[:num_rows],
    )


def document_lengths(source: TokenFiles) -> Lengths:
    """Sums up document lengths: all, or of a large corpus 100 blocks spread over it evenly."""
    count = len(source)
    lengths = np.concatenate([source.lengths(*block) for block in _blocks(count)])
    # Half octaves, wherever they are whole numbers apart: 1, 2, 3, 4, 6, 8, 11, 16, ...
    halves = np.arange(2 * np.log2(lengths.max() + 1) + 2)
    edges = np.unique(np.round(2 ** (halves / 2)).astype(int))
    edges = edges[: np.searchsorted(edges, lengths.max(), side="right") + 1]
    return Lengths(
        edges,
        np.histogram(lengths, edges)[0],
        float(lengths.mean()),
        float(np.median(lengths)),
        float(np.percentile(lengths, 99)),
        int(lengths.max()),
        count,
    )


def _blocks(count: int) -> list[tuple[int, int]]:
    if count <= _SAMPLED_DOCUMENTS:
        return [(0, count)]
    size = _SAMPLED_DOCUMENTS // _SAMPLED_BLOCKS
    starts = np.linspace(0, count - size, _SAMPLED_BLOCKS).astype(int)
    return [(int(start), int(start) + size) for start in starts]


def _read(reader: BatchReader, num_batches: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Gives the fill of both sides in each batch, and the seconds that reading took."""
    fills, seconds = [], 0.0
    for _ in range(num_batches):
        start = time.perf_counter()
        batch = next(reader)
        seconds += time.perf_counter() - start
        fills.append([(batch[f"{side}_segment_ids"] > 0).mean() for side in ("encoder", "decoder")])
    encoder_fill, decoder_fill = np.array(fills).T
    return encoder_fill, decoder_fill, seconds


def _examples(
    sources: Mapping[str, Any],
    tasks: Sequence[TaskSpec],
    special: SpecialIds,
    config: ReaderConfig,
    count: int,
) -> dict[str, list[Segment]]:
    """Reads each task alone: a rare one may have no row among a mixture's first."""
    one_row = replace(config, batch_size=1, num_streams=1)
    examples = {}
    for task in tasks:
        rows = traced_rows(sources, [task], special, one_row, count)
        examples[task.name] = [segment for row in rows for segment in row][:count]
    return examples
