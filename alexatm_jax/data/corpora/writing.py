"""Writes documents, prepared and tokenized, as corpora of the cache.

Each unit of a source becomes one shard, in whichever process; what it holds depends on the unit
alone, so that a corpus comes out the same, byte for byte, whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alexatm_jax.data.cache import (
    CacheError,
    PathLike,
    Provenance,
    check_vocabulary,
    corpus_folder,
    read_corpus,
)
from alexatm_jax.data.corpora.job import CorpusJob as CorpusJob
from alexatm_jax.data.corpora.job import Report, ShardTask, write_unit
from alexatm_jax.data.corpora.token_files import shard_stem, token_dtype, write_shard
from alexatm_jax.data.corpora.unfinished import UnfinishedCorpus, forget_killed_writer, sole_writer
from alexatm_jax.data.corpora.worker_processes import in_processes
from alexatm_jax.whole_files import write_json

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0

Run = Callable[[Sequence[UnfinishedCorpus], Report], Iterable[tuple[ShardTask, Mapping[str, Any]]]]
"""Writes all pending shards; gives each with its summary as it is done."""


def write_corpora(
    cache_dir: PathLike,
    jobs: Sequence[CorpusJob],
    *,
    num_workers: int = 1,
    run: Run | None = None,
) -> dict[str, Provenance]:
    """Writes corpora; one that is in the cache already is kept, if it is of the same documents.

    Args:
      cache_dir: folder of the cache; made if absent.
      jobs: what to write, each under its own name.
      num_workers: the most processes to start, for the units of all jobs. With one worker or one
        unit it is done in this process, as are sources that cannot be pickled and jobs with
        `max_documents`.
      run: does the tasks instead, where given; see `beam`.

    Returns:
      By corpus, what was written or kept.

    Raises:
      TextError: at a problem with the text, where a job is to stop at one.
      ValueError: if `num_workers` is less than 1.
      CacheError: if the corpus in the cache is of other documents or another vocabulary, another
        process is writing it, it has no document, or cannot be written. Finished shards are kept.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; it must be at least 1.")
    with contextlib.ExitStack() as stack:
        known: dict[str, Provenance] = {}
        unfinished: list[UnfinishedCorpus] = []
        for job in jobs:
            check_vocabulary(cache_dir, job.vocabulary.sha256, f"corpus {job.corpus!r}")
            folder = corpus_folder(cache_dir, job.corpus)
            if not folder.is_dir():
                stack.enter_context(sole_writer(folder))
            if folder.is_dir():
                forget_killed_writer(folder)
                known[job.corpus] = _kept(cache_dir, job)
            else:
                unfinished.append(UnfinishedCorpus(cache_dir, job))
        written = _finished(unfinished, run or functools.partial(_run, num_workers=num_workers))
    return known | written


def write_corpus(cache_dir: PathLike, job: CorpusJob, *, num_workers: int = 1) -> Provenance:
    """Writes one corpus, as `write_corpora` does."""
    return write_corpora(cache_dir, [job], num_workers=num_workers)[job.corpus]


def write_tokens(
    cache_dir: PathLike,
    corpus: str,
    documents: Iterable[np.ndarray],
    *,
    split: str,
    source: str,
    vocabulary_sha256: str,
    vocabulary_size: int = np.iinfo(np.int32).max,
) -> Provenance:
    """Writes documents that are tokenized already, as one shard; all at once or not at all.

    Args:
      cache_dir: folder of the cache; made if absent.
      corpus: name, not yet in the cache.
      documents: integer arrays [N] without `<s>` and `</s>`; empty ones are left out.
      split: split of the source.
      source: description of the source.
      vocabulary_sha256: hash of the vocabulary that tokenized them.
      vocabulary_size: V; ids are checked, and take 2 bytes if V <= 65536.

    Raises:
      CacheError: if the corpus exists, the cache's vocabulary is another, a document is no
        array of token ids, or all are empty.
    """
    folder, held = corpus_folder(cache_dir, corpus), list(documents)
    check_vocabulary(cache_dir, vocabulary_sha256, f"corpus {corpus!r}")
    if folder.exists():
        raise CacheError(f"{folder} is already there; remove it if it is to be replaced.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".tmp", f".{corpus}.", folder.parent) as drafts:
        draft = Path(drafts) / corpus
        draft.mkdir()
        filled = [document for document in held if np.size(document)]
        shard = write_shard(draft, shard_stem(0, 1), filled, vocabulary_size)
        provenance = Provenance(
            corpus=corpus,
            split=split,
            source=source,
            vocabulary_sha256=vocabulary_sha256,
            num_documents=shard.documents,
            num_tokens=shard.tokens,
            num_empty=len(held) - len(filled),
            dtype=token_dtype(vocabulary_size),
            num_sentences=0,
            dropped={},
            num_dropped=0,
            problems={},
            shards=[shard._asdict()],
        )
        write_json(draft / "provenance.json", asdict(provenance))
        draft.rename(folder)
    return provenance


def _kept(cache_dir: PathLike, job: CorpusJob) -> Provenance:
    """Gives what the cache says of a corpus that it has; raises CacheError if it is another."""
    held = read_corpus(cache_dir, job.corpus).provenance
    if (held.split, held.source) != (job.split, job.source):
        raise CacheError(
            f"corpus {job.corpus!r} of {cache_dir} is split {held.split!r} of {held.source}, not "
            f"split {job.split!r} of {job.source}; use another cache, or remove this corpus."
        )
    logger.info("corpus %s is in %s already.", job.corpus, cache_dir)
    return held


def _finished(unfinished: Sequence[UnfinishedCorpus], run: Run) -> dict[str, Provenance]:
    """Has all pending shards written, and finishes each corpus with its last one."""
    corpora = {corpus.name: corpus for corpus in unfinished}
    progress = _Progress(sum(len(corpus.pending) for corpus in unfinished))
    # A run may have been killed just before it finished a corpus.
    written = {name: corpus.finish() for name, corpus in corpora.items() if corpus.is_complete}
    for task, summary in run(unfinished, progress.add):
        progress.add_unit()
        corpus = corpora[task.job.corpus]
        corpus.add(summary)
        if corpus.is_complete:
            written[corpus.name] = corpus.finish()
    progress.end()
    return written


def run_here(
    unfinished: Sequence[UnfinishedCorpus], report: Report
) -> Iterator[tuple[ShardTask, Mapping[str, Any]]]:
    """Writes all pending shards in this process, one after another."""
    for corpus in unfinished:
        for task in corpus.pending:
            # Whoever takes the summary tells the corpus, which may limit what follows.
            yield task, write_unit(task, report, corpus.limit())


def _run(
    unfinished: Sequence[UnfinishedCorpus], report: Report, num_workers: int
) -> Iterator[tuple[ShardTask, Mapping[str, Any]]]:
    """Writes pending shards here or, where there are several to share out, in processes."""
    shared = [corpus for corpus in unfinished if corpus.can_be_shared()]
    tasks = [task for corpus in shared for task in corpus.pending]
    if min(num_workers, len(tasks)) < 2:
        return run_here(unfinished, report)
    here = [corpus for corpus in unfinished if corpus not in shared]
    there = in_processes(write_unit, tasks, num_workers, report)
    return itertools.chain(run_here(here, report), there)


class _Progress:
    """Tells the log how far all units together are."""

    def __init__(self, num_units: int) -> None:
        self._units, self._num_units = 0, num_units
        self._documents = self._tokens = 0
        self._start = self._last_line = time.monotonic()

    def add(self, done: tuple[int, int]) -> None:
        self._documents += done[0]
        self._tokens += done[1]
        if time.monotonic() > self._last_line + _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info("caching: %s%s", self._state(), self._time_left())

    def add_unit(self) -> None:
        self._units += 1

    def end(self) -> None:
        if self._num_units:
            logger.info("cached %s in %.1f s", self._state(), time.monotonic() - self._start)

    def _state(self) -> str:
        speed = self._tokens / (time.monotonic() - self._start)
        return (
            f"{self._units} of {self._num_units} units, {self._documents} documents, "
            f"{self._tokens} tokens, {speed:.0f} tokens/s"
        )

    def _time_left(self) -> str:
        if not self._units:
            return ""
        spent = time.monotonic() - self._start
        left = spent * (self._num_units - self._units) / self._units
        return f", about {left / 60:.0f} min left"
