"""Says what corpus is to be written, and writes one shard of it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexatm_jax.data.corpora.token_files import (
    Shard,
    is_whole,
    shard_stem,
    telling_of_failure,
    token_dtype,
    write_shard,
)
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.documents import DocumentSource
from alexatm_jax.text.preparation import Preparation
from alexatm_jax.text.problems import Problems
from alexatm_jax.whole_files import write_json

Report = Callable[[tuple[int, int]], None]
"""Called now and then with the documents and tokens since it was called last."""


@dataclass(frozen=True)
class CorpusJob:
    """A corpus to write.

    Attributes:
      corpus: its name in the cache.
      split: split of the source, for its provenance.
      documents: where its text comes from.
      preparation: what is done to the text; None takes it as it is and counts no sentences.
      vocabulary: tokenizes it.
      on_problem: what to do about unusable text: "skip" (leave out, count, report) or "stop".
      max_documents: read only so many, from the beginning; one process then reads them all.
      description: names all that the documents depend on, if not as `documents` do.
    """

    corpus: str
    split: str
    documents: DocumentSource
    preparation: Preparation | None
    vocabulary: Vocabulary
    on_problem: str = "skip"
    max_documents: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        Problems(self.on_problem)
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(
                f"max_documents is {self.max_documents}; give a positive number, or None for all."
            )

    @property
    def source(self) -> str:
        """What provenance says of the text: where it is from, how much of it, what was done."""
        limit = self.max_documents
        parts = [] if limit is None else [f"the first {limit} documents of "]
        parts.append(self.description or self.documents.description)
        parts += [] if self.preparation is None else [f"; {self.preparation.description}"]
        return "".join(parts)


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: a unit of a job's source, and the folder for it."""

    job: CorpusJob
    folder: Path
    number: int
    num_shards: int
    unit: Mapping[str, Any]

    def __str__(self) -> str:
        return f"unit {self.number} of {self.num_shards} of corpus {self.job.corpus!r}: {self.unit}"

    @property
    def stem(self) -> str:
        return shard_stem(self.number, self.num_shards)

    @property
    def summary_path(self) -> Path:
        """Where the finished shard is described."""
        return self.folder / f"{self.stem}.json"

    def summary(self) -> dict[str, Any] | None:
        """Reads what became of the shard; None while it, or a file of it, is not there."""
        try:
            summary: dict[str, Any] = json.loads(self.summary_path.read_bytes())
        except (OSError, ValueError):
            return None
        shard, dtype = Shard(**summary["shard"]), token_dtype(self.job.vocabulary.size)
        return summary if is_whole(self.folder, self.stem, shard, dtype) else None


def write_unit(
    task: ShardTask, report: Report = lambda done: None, limit: int | None = None
) -> dict[str, Any]:
    """Writes one shard, in any process that sees the folder.

    Args:
      task: which.
      report: told of progress.
      limit: read so many documents at most.

    Returns:
      The shard's summary, as it stands beside it.

    Raises:
      TextError: at the first problem, where the job is to stop at one.
      CacheError: if the shard cannot be written.
    """
    job, text = task.job, _Text(task.job, report)
    problems = Problems(job.on_problem)
    documents = itertools.islice(job.documents.documents(task.unit, problems), limit)
    try:
        shard = write_shard(task.folder, task.stem, text.tokenized(documents), job.vocabulary.size)
    except Exception as error:
        error.add_note(f"This came up in {task}.")
        raise
    summary = {
        "shard": shard._asdict(),
        "read": text.read,
        "empty": text.read - shard.documents,
        "sentences": text.sentences,
        "dropped": text.dropped,
        "num_dropped": text.num_dropped,
        "problems": problems.as_json(),
    }
    with telling_of_failure(task.summary_path):
        write_json(task.summary_path, summary)
    return summary


class _Text:
    """Makes tokens of documents and counts what came of them."""

    def __init__(self, job: CorpusJob, report: Report) -> None:
        self._job, self._report = job, report
        self.read = self.sentences = self.num_dropped = 0
        self.dropped: Counter[str] = Counter()

    def tokenized(self, documents: Iterable[str]) -> Iterator[np.ndarray]:
        encode, prepared = self._job.vocabulary.encode, self._prepared
        reported = num_tokens = 0
        for document in documents:
            self.read += 1
            # SentencePiece's own batches are no faster than its loop beside all else.
            tokens = encode(prepared(document))
            if len(tokens):
                num_tokens += len(tokens)
                yield tokens
            if num_tokens >= 1 << 16:
                self._report((self.read - reported, num_tokens))
                reported, num_tokens = self.read, 0
        self._report((self.read - reported, num_tokens))

    def _prepared(self, document: str) -> str:
        if self._job.preparation is None:
            return document
        prepared = self._job.preparation(document)
        self.sentences += prepared.num_sentences
        self.num_dropped += prepared.num_dropped
        self.dropped.update(prepared.dropped)
        return prepared.text
