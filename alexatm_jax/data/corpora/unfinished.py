"""A corpus of the cache in the making: killed at any moment, it is gone on with where it stood.

Until all shards are there they lie in

    corpora/.{corpus}.{fingerprint}.partial/documents-00003-of-00012.tokens, .ends, .json

where the fingerprint is of all that they depend on, and a shard is finished once it has its .json.
Then provenance.json is written, the shards' .json go, and the folder gets its name. So a folder of
that name is whole, and holds the same bytes however often and by how many processes it was begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexatm_jax.data.cache import CacheError, PathLike, Provenance, corpus_folder, read_corpus
from alexatm_jax.data.corpora.job import CorpusJob, ShardTask
from alexatm_jax.data.corpora.token_files import telling_of_failure, token_dtype
from alexatm_jax.data.corpora.worker_processes import can_travel
from alexatm_jax.text.problems import Problem, Problems
from alexatm_jax.whole_files import sync, write_json, write_whole

logger = logging.getLogger(__name__)


class UnfinishedCorpus:
    """A corpus in the making.

    Attributes:
      pending: the shards that are to be written.

    Raises:
      ValueError: as the source's `units`.
    """

    def __init__(self, cache_dir: PathLike, job: CorpusJob) -> None:
        # The source is asked but once: its files may change while they are read.
        self._job, self._source, units = job, job.source, job.documents.units()
        self._cache_dir, self._final = cache_dir, corpus_folder(cache_dir, job.corpus).absolute()
        fingerprint = _fingerprint(job, self._source, units)
        self._folder = self._final.with_name(f".{job.corpus}.{fingerprint}.partial")
        self._tasks = [
            ShardTask(job, self._folder, number, len(units), unit)
            for number, unit in enumerate(units)
        ]
        self._make_room()
        summaries = [task.summary() for task in self._tasks]
        self._documents_read = sum(summary["read"] for summary in summaries if summary)
        # The last step before a corpus is whole takes the summaries away.
        described = self._provenance_path.exists()
        self.pending = [
            task
            for task, summary in zip(self._tasks, summaries, strict=True)
            if summary is None and not described
        ]
        self._remaining = len(self.pending)
        if done := len(units) - self._remaining:
            logger.info(
                "corpus %s: %d of %d shards are there already; going on.",
                *(job.corpus, done, len(units)),
            )

    @property
    def _provenance_path(self) -> Path:
        return self._folder / "provenance.json"

    @property
    def name(self) -> str:
        return self._job.corpus

    @property
    def is_complete(self) -> bool:
        return not self._remaining

    def can_be_shared(self) -> bool:
        """Tells whether several processes can read it at once."""
        job = self._job
        return job.max_documents is None and can_travel((job.documents, job.preparation))

    def limit(self) -> int | None:
        """Tells how many more documents may be read; None is all."""
        most = self._job.max_documents
        return None if most is None else most - self._documents_read

    def add(self, summary: Mapping[str, Any]) -> None:
        """Notes that another shard is finished."""
        self._documents_read += summary["read"]
        self._remaining -= 1

    def finish(self) -> Provenance:
        """Makes the finished shards a corpus of the cache, and says what is in it.

        Raises:
          CacheError: if there is no document in any of them.
        """
        if not self._provenance_path.exists():
            self._describe()
        for path in [*self._drafts(), *(task.summary_path for task in self._tasks)]:
            path.unlink(missing_ok=True)
        _sync_folder(self._folder)
        self._folder.rename(self._final)
        _sync_folder(self._final.parent)
        provenance = read_corpus(self._cache_dir, self._job.corpus).provenance
        _log(provenance, json.loads((self._final / "problems.json").read_bytes()))
        return provenance

    def _make_room(self) -> None:
        """Makes the folder, or finds what an earlier run finished of the same job."""
        job = self._job
        for other in self._final.parent.glob(f".{job.corpus}.{'?' * 12}.partial"):
            if other != self._folder:
                logger.info("%s was begun from other text or settings; starting anew.", other)
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)
        for draft in self._drafts():
            draft.unlink()

    def _drafts(self) -> Iterator[Path]:
        """Finds what processes left that were killed as they wrote."""
        return self._folder.glob(".*.tmp")

    def _describe(self) -> None:
        summaries = [task.summary() or {} for task in self._tasks]
        problems = Problems.merged([summary["problems"] for summary in summaries])
        try:
            provenance = _provenance(self._job, self._source, summaries, problems["counts"])
        except CacheError:  # all empty: nothing of it is worth keeping
            shutil.rmtree(self._folder)
            raise
        with telling_of_failure(self._provenance_path):
            _write_json_durably(self._folder / "problems.json", problems)
            _write_json_durably(self._provenance_path, asdict(provenance))


def _fingerprint(job: CorpusJob, source: str, units: Sequence[Mapping[str, Any]]) -> str:
    """Hashes all that the shards depend on."""
    settings = job.split, source, job.vocabulary.sha256, job.on_problem, list(units)
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def _provenance(
    job: CorpusJob,
    source: str,
    summaries: Sequence[Mapping[str, Any]],
    problems: Mapping[str, int],
) -> Provenance:
    """Adds up what became of the shards."""

    def total(name: str) -> int:
        return sum(summary[name] for summary in summaries)

    dropped: Counter[str] = Counter()
    for summary in summaries:
        dropped.update(summary["dropped"])
    shards = [summary["shard"] for summary in summaries]
    return Provenance(
        corpus=job.corpus,
        split=job.split,
        source=source,
        vocabulary_sha256=job.vocabulary.sha256,
        num_documents=sum(shard["documents"] for shard in shards),
        num_tokens=sum(shard["tokens"] for shard in shards),
        num_empty=total("empty"),
        dtype=token_dtype(job.vocabulary.size),
        num_sentences=total("sentences"),
        dropped=dict(sorted(dropped.items())),
        num_dropped=total("num_dropped"),
        problems=problems,
        shards=shards,
    )


def _log(provenance: Provenance, problems: Mapping[str, Any]) -> None:
    dropped = f"; {provenance.num_dropped} sentences dropped: {dict(provenance.dropped)}"
    logger.info(
        "cached corpus %s (%s): %d documents, %d tokens; %d empty left out%s",
        *(provenance.corpus, provenance.source, provenance.num_documents, provenance.num_tokens),
        *(provenance.num_empty, dropped if provenance.num_dropped else ""),
    )
    for kind, count in problems["counts"].items():
        first = next(p for p in problems["examples"] if p["kind"] == kind)
        logger.warning(
            "corpus %s: %d x %s, the first: %s",
            *(provenance.corpus, count, kind, Problem(**first)),
        )


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing the corpus of that folder.

    The lock is a file beside it, and is free again once this process has ended, however it did.

    Raises:
      CacheError: if another process is writing it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = _lock_path(folder)
    descriptor = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def forget_killed_writer(folder: Path) -> None:
    """Removes the lock beside a whole corpus, if who held it was killed before removing it."""
    if _lock_path(folder).exists():
        with contextlib.suppress(CacheError), sole_writer(folder):
            pass


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed the file after we opened it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise CacheError(
                f"another process is writing the corpus beside {path}; wait until it has ended, "
                "or name another cache."
            ) from error
        os.close(descriptor)


def _write_json_durably(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file that is whole even if the machine stops."""

    def write(draft: Path) -> None:
        write_json(draft, content)
        sync(draft)

    write_whole(path, write)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network filesystems cannot
        sync(folder)
