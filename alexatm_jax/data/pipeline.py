"""Turns tokenized documents into batches, each a function of seed and step alone."""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from alexatm_jax.batch import Batch
from alexatm_jax.data.cache import read_corpora, read_mixture, read_vocabulary
from alexatm_jax.data.objectives import Objective, objective_from_spec
from alexatm_jax.data.packing import Packing
from alexatm_jax.data.streams import Part, Source, Stream
from alexatm_jax.data.vocabulary import SpecialIds

# Of the order of documents and examples: raised when equal settings give other batches.
_VERSION = 2


class Task(Protocol):
    """One part of a mixture; `cache.TaskSpec` is one.

    Its rate is its share of the mixture's text tokens, which are those of its documents before
    any noise; rates need not sum to 1. It may have `labels`, which statistics repeat.
    """

    @property
    def name(self) -> str: ...
    @property
    def corpus(self) -> str: ...
    @property
    def rate(self) -> float: ...
    @property
    def objective(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ReaderConfig:
    """What batches depend on, besides the documents and the tasks.

    Args:
      batch_size: rows of the global batch, over all hosts.
      encoder_length: S, tokens.
      decoder_length: T, tokens.
      seed: of shuffling, noising and cutting.
      num_streams: logical streams; keep it while hosts and devices change. It divides
        batch_size, and the number of hosts divides it.
      packing: a mode of `packing.Packing`.
      max_epochs: how often a document may be read; at the first that comes once more
        `NoMoreBatches` is raised. None for no limit. Batches do not depend on it, so it may change.

    Raises:
      ValueError: if sizes are not positive, streams do not divide the batch, or the packing
        is unknown.
    """

    batch_size: int
    encoder_length: int
    decoder_length: int
    seed: int
    num_streams: int
    packing: str = "document_separator"
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        Packing(self.packing, self.encoder_length, self.decoder_length)
        if min(self.batch_size, self.num_streams) < 1 or self.batch_size % self.num_streams:
            raise ValueError(
                f"{self.num_streams} streams cannot share {self.batch_size} rows evenly; "
                "num_streams must be positive and divide batch_size."
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be in [0, 2**63).")
        if self.max_epochs is not None and self.max_epochs < 1:
            raise ValueError(
                f"max_epochs is {self.max_epochs}; documents must be read at least once: give 1 "
                "or more, or None for no limit."
            )


class BatchReader:
    """An endless iterator of batches that depend on the seed and the step alone.

    The work is done by `num_streams` logical streams, which know neither hosts nor devices.
    Row r of the global batch comes from stream r // (batch_size / num_streams): a host's
    contiguous rows then touch its own streams only, where r mod num_streams, decided at
    first, would make every host run every stream.

    Args:
      corpora: documents by corpus name, int32 [N] each.
      tasks: the mixture; rates need not sum to 1.
      special: ids of the vocabulary's special tokens.
      config: sizes, seed and packing.
      host_index: which host this is; it gets rows host_index x batch_size / host_count on.
      host_count: how many hosts share the batch.

    Raises:
      ValueError: if the hosts cannot share the streams evenly, there is no task, a rate is
        not positive, or a corpus is missing or smaller than the number of streams.
    """

    def __init__(
        self,
        corpora: Mapping[str, Source],
        tasks: Sequence[Task],
        special: SpecialIds,
        config: ReaderConfig,
        host_index: int = 0,
        host_count: int = 1,
    ) -> None:
        _check_hosts(config, host_index, host_count)
        _check_tasks(tasks, corpora)
        objectives = [_objective(task, config) for task in tasks]
        self._config, self._tasks = config, tuple(tasks)
        self._sizes = [len(corpora[task.corpus]) for task in tasks]
        self._description = _description(tasks, objectives, corpora, config)
        packing = Packing(config.packing, config.encoder_length, config.decoder_length)

        parts = [
            Part(task.name, corpora[task.corpus], objective, task.rate)
            for task, objective in zip(tasks, objectives, strict=True)
        ]
        repeating: set[str] = set()
        own = config.num_streams // host_count
        first = host_index * own
        self._streams = {
            number: Stream(
                parts,
                packing,
                special,
                number=number,
                num_streams=config.num_streams,
                seed=config.seed,
                max_epochs=config.max_epochs,
                repeating=repeating,
            )
            for number in range(first, first + own)
        }
        self._step = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Gives this host's rows of the next global batch, laid out as in `batch.py`."""
        count = self._config.batch_size // self._config.num_streams
        rows = [next(stream) for stream in self._streams.values() for _ in range(count)]
        self._step += 1
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def get_state(self) -> dict[str, Any]:
        """Gives, JSON-able, where this host's streams stand behind the last batch.

        Hosts' states differ in "streams" only; `set_state` also takes their union.
        """
        return {
            "reader": self._description,
            "step": self._step,
            "streams": {str(n): stream.get_state() for n, stream in self._streams.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly behind the batch at which `get_state` was called.

        Args:
          state: of a reader of the same documents, tasks and config; the number of hosts
            may be another, if the states of all hosts' streams are put together.

        Raises:
          ValueError: if the reader was another one, or a stream's state is missing.
        """
        theirs, ours = state["reader"], self._description
        if theirs.get("version") != _VERSION:
            raise ValueError(
                f"the data state is of version {theirs.get('version')} of the reader, this is "
                f"version {_VERSION}, which takes documents in another order; go on with the "
                "program that wrote it, or begin a new run from the checkpoint's parameters."
            )
        if differing := [key for key in ours if theirs.get(key) != ours[key]]:
            raise ValueError(
                "the data state comes from another reader: "
                + "; ".join(f"{k} was {theirs.get(k)}, is {ours[k]}" for k in differing)
                + "; restore the old settings, or begin a new run."
            )
        if missing := [n for n in self._streams if str(n) not in state["streams"]]:
            raise ValueError(
                f"the data state lacks streams {missing}, it has "
                f"{sorted(map(int, state['streams']))}; unite the states of all hosts."
            )
        self._step = state["step"]
        for number, stream in self._streams.items():
            stream.set_state(state["streams"][str(number)])

    def statistics(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sums up what this host's streams have read since the run began.

        Args:
          state: of `get_state`, to sum up to there; by default, to the last batch.

        Returns:
          "fill", "encoder_fill", "decoder_fill": share of this host's rows, of both sides or
          one, that is not padding; "tasks": by name, "encoder_tokens", "decoder_tokens" and
          "text_tokens", where a document's token counts once, before noise; "token_share" of
          the first two together among all tasks; "share" of the text tokens, and "expected",
          which is what it should be; "documents" gone through and "epochs", which is documents
          / this host's share of the corpus; "labels" of the task. Documents count once all
          rows are given that were filled together with theirs.
        """
        state = self.get_state() if state is None else state
        streams = [state["streams"][str(number)] for number in self._streams]
        tokens = np.sum([stream["tokens"] for stream in streams], axis=0)  # [tasks, 3]
        places = np.sum([stream["places"] for stream in streams], axis=0)  # [tasks, 2]
        config = self._config
        rows = state["step"] * config.batch_size * len(streams) // config.num_streams
        capacity = max(rows, 1) * np.array([config.encoder_length, config.decoder_length])
        held = tokens[:, :2].sum(axis=0)
        return {
            "fill": float(held.sum() / capacity.sum()),
            "encoder_fill": float(held[0] / capacity[0]),
            "decoder_fill": float(held[1] / capacity[1]),
            "tasks": self._task_statistics(tokens, places[:, 0], len(streams)),
        }

    def _task_statistics(
        self, tokens: np.ndarray, documents: np.ndarray, num_streams: int
    ) -> dict[str, dict[str, Any]]:
        all_sides, all_text = max(tokens[:, :2].sum(), 1), max(tokens[:, 2].sum(), 1)
        all_rates = math.fsum(task.rate for task in self._tasks)
        share_of_streams = num_streams / self._config.num_streams
        return {
            task.name: {
                "encoder_tokens": int(tokens[index, 0]),
                "decoder_tokens": int(tokens[index, 1]),
                "text_tokens": int(tokens[index, 2]),
                "token_share": float(tokens[index, :2].sum() / all_sides),
                "share": float(tokens[index, 2] / all_text),
                "expected": task.rate / all_rates,
                "documents": int(documents[index]),
                "epochs": float(documents[index] / (size * share_of_streams)),
                "labels": dict(getattr(task, "labels", {})),
            }
            for index, (task, size) in enumerate(zip(self._tasks, self._sizes, strict=True))
        }


def open_reader(
    cache_dir: str | os.PathLike[str],
    mixture: str,
    config: ReaderConfig,
    host_index: int = 0,
    host_count: int = 1,
) -> BatchReader:
    """Makes the reader of a cached mixture; the other arguments are BatchReader's.

    Raises:
      ValueError: if the cache lacks the mixture or a corpus of it, parts of it were made
        with different vocabularies, or as in BatchReader.
    """
    spec = read_mixture(cache_dir, mixture)
    corpora = {name: held.source for name, held in read_corpora(cache_dir, spec.corpora).items()}
    special = read_vocabulary(cache_dir).special
    return BatchReader(corpora, spec.tasks, special, config, host_index, host_count)


class Prefetcher:
    """Reads ahead in a thread: an iterator of batches, each with the state behind it.

    The state belongs to the batch it comes with, not to the batches read ahead, so it may
    be saved as soon as training has used that batch. An error of the reader is raised here,
    in the place of the batch that it spoilt. While a prefetcher is open its reader is not
    to be used, except for `statistics` of a given state.

    Args:
      reader: what to read.
      depth: how many batches may wait, at least 1.
    """

    def __init__(self, reader: BatchReader, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; at least 1 batch must be able to wait.")
        self._reader = reader
        self._waiting: queue.Queue[_Item] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[Batch, dict[str, Any]]:
        if self._closed.is_set():
            raise ValueError("the prefetcher is closed; make another to read on.")
        item = self._waiting.get()
        if isinstance(item, Exception):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Stops reading and waits for the thread; what was read ahead is lost."""
        self._closed.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            for batch in self._reader:
                self._put((batch, self._reader.get_state()))
                if self._closed.is_set():
                    return
        except Exception as error:  # of any kind: the consumer must not wait for ever
            self._put(error)

    def _put(self, item: _Item) -> None:
        while not self._closed.is_set():
            try:
                return self._waiting.put(item, timeout=0.1)
            except queue.Full:
                continue


_Item = tuple[Batch, dict[str, Any]] | Exception


def _check_hosts(config: ReaderConfig, host_index: int, host_count: int) -> None:
    if not 0 <= host_index < host_count or config.num_streams % host_count:
        raise ValueError(
            f"host {host_index} of {host_count} cannot have an even share of "
            f"{config.num_streams} streams; indices count from 0, and the number of hosts "
            "must divide num_streams."
        )


def _check_tasks(tasks: Sequence[Task], corpora: Mapping[str, Source]) -> None:
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"the tasks to mix are {names}; give one or more, each with its own name.")
    for task in tasks:
        if not (task.rate > 0 and math.isfinite(task.rate)):
            raise ValueError(
                f"task {task.name!r} has the rate {task.rate}; give a positive number or "
                "leave the task out."
            )
        if task.corpus not in corpora:
            raise ValueError(
                f"task {task.name!r} reads the corpus {task.corpus!r}; there are "
                f"{sorted(corpora)}; cache it or correct the task."
            )


def _objective(task: Task, config: ReaderConfig) -> Objective:
    """Makes the task's objective; raises ValueError if it cannot serve such rows."""
    objective = objective_from_spec(task.objective)
    objective.longest_piece(config.encoder_length, config.decoder_length)
    end = objective.position_end
    if end is not None and end < config.encoder_length:
        raise ValueError(
            f"task {task.name!r} ends its encoder positions at {end}, but rows have "
            f"{config.encoder_length}; positions would be negative; set position_end to "
            "encoder_length."
        )
    return objective


def _description(
    tasks: Sequence[Task],
    objectives: Sequence[Objective],
    corpora: Mapping[str, Source],
    config: ReaderConfig,
) -> dict[str, Any]:
    """Names all that a state depends on, to tell when it is given to another reader."""
    parts = [
        {
            "name": task.name,
            "corpus": task.corpus,
            "documents": len(corpora[task.corpus]),
            "rate": task.rate,
            "objective": objective.spec(),
        }
        for task, objective in zip(tasks, objectives, strict=True)
    ]
    settings = asdict(config)
    del settings["max_epochs"]  # batches do not depend on it
    return {"version": _VERSION} | settings | {"tasks": parts}
