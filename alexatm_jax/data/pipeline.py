"""Turns tokenized documents into batches, each a function of seed and step alone."""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from alexatm_jax.batch import Batch
from alexatm_jax.data.cache import read_corpora, read_mixture, read_vocabulary
from alexatm_jax.data.objectives import Objective, objective_from_spec
from alexatm_jax.data.packing import Packing
from alexatm_jax.data.rate_factors import check_factors, with_factors
from alexatm_jax.data.reading_statistics import phases, statistics
from alexatm_jax.data.streams import Part, Source, Stream
from alexatm_jax.data.vocabulary import SpecialIds

# Of the order of documents and examples: raised when equal settings give other batches.
_VERSION = 3


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
      rate_factors: by pattern of tasks' names, as `rate_factors.with_factors` reads them, what
        their rates are multiplied by; 0 leaves a task out.

    Raises:
      ValueError: if sizes are not positive, streams do not divide the batch, the packing is
        unknown, or a factor is negative.
    """

    batch_size: int
    encoder_length: int
    decoder_length: int
    seed: int
    num_streams: int
    packing: str = "document_separator"
    max_epochs: int | None = None
    rate_factors: Mapping[str, float] = field(default_factory=dict)

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
        check_factors(self.rate_factors)


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
        not positive, a rate factor belongs to no task, or a corpus is missing or smaller than the
        number of streams.
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
        self._config, self._tasks, self._corpora = config, tuple(tasks), corpora
        self._special = special
        self._description = _description(tasks, corpora, config)
        self._repeating: set[str] = set()
        own = config.num_streams // host_count
        self._own = range(host_index * own, (host_index + 1) * own)
        self._streams = self._streams_of(self._description)
        self._step = 0
        self._earlier: list[dict[str, Any]] = []  # phases of training

    def _streams_of(self, description: Mapping[str, Any]) -> dict[int, Stream]:
        """Makes this host's streams as they are, or were, in the phase described."""
        parts = [
            Part(
                task["name"],
                self._corpora[task["corpus"]],
                objective_from_spec(task["objective"]),
                task["rate"],
            )
            for task in description["tasks"]
        ]
        packing = Packing(
            description["packing"], description["encoder_length"], description["decoder_length"]
        )
        return {
            number: Stream(
                parts,
                packing,
                self._special,
                number=number,
                num_streams=description["num_streams"],
                seed=description["seed"],
                max_epochs=self._config.max_epochs,
                repeating=self._repeating,
            )
            for number in self._own
        }

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

        Hosts' states differ in "streams" only; `merged_states` puts them together.
        """
        return {
            "reader": self._description,
            "step": self._step,
            "earlier": self._earlier,
            "streams": {str(n): stream.get_state() for n, stream in self._streams.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly behind the batch at which `get_state` was called.

        Args:
          state: of a reader of the same documents, tasks and config, in the same phase of
            training; the number of hosts may be another, if their states were merged.

        Raises:
          ValueError: if the reader was another one, or a stream's state is missing.
        """
        _check_same(state["reader"], self._description, lasting=False)
        own = self._own_streams(state)
        self._step, self._earlier = state["step"], state["earlier"]
        for number, stream in self._streams.items():
            stream.set_state(own[number])

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Begins a phase of training where another one, with other settings, has ended.

        Every task goes on in its documents: all phases together give each token of an epoch
        once, in the stream that it belongs to, whatever their rates and lengths. What the phase
        before had laid into rows, but not given, comes first, cut anew if rows are shorter;
        tasks left out keep their place. Each task's share is kept from here on, and no row gets
        the random numbers of an earlier one. If nothing has changed this is `set_state`: the
        batches are those of a run without the boundary.

        Args:
          state: behind the last batch of the phase before. Its rates, lengths, batch size and
            the fields of objectives may differ, and the number of hosts, if states were merged.

        Raises:
          ValueError: if seed, streams, packing, tasks, documents or kinds of objectives differ,
            or a stream's state is missing.
        """
        if state["reader"] == self._description:
            return self.set_state(state)
        _check_same(state["reader"], self._description, lasting=True)
        own = self._own_streams(state)
        for number, before in self._streams_of(state["reader"]).items():
            before.set_state(own[number])
            self._streams[number].continue_from(before)
        self._step, self._earlier = state["step"], phases(state)

    def _own_streams(self, state: Mapping[str, Any]) -> dict[int, Any]:
        """Finds the states of this host's streams."""
        if missing := [n for n in self._own if str(n) not in state["streams"]]:
            raise ValueError(
                f"the data state lacks streams {missing}, it has "
                f"{sorted(map(int, state['streams']))}; merge the states of all hosts."
            )
        return {number: state["streams"][str(number)] for number in self._own}

    def statistics(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sums up what has been read since the run began, in all phases.

        Args:
          state: of `get_state` or `merged_states`, of this phase or an earlier one, to sum up its
            streams to there; by default this host's, to the last batch.

        Returns:
          "fill", "encoder_fill", "decoder_fill": share of these streams' rows, of both sides or
          one, that is not padding; "tasks": by name, "encoder_tokens", "decoder_tokens" and
          "text_tokens", where a document's token counts once, before noise; "token_share" of
          the first two together among all tasks; "share" of the text tokens, and "expected",
          which is what it should be: of each phase's text tokens the share that it sets;
          "documents" gone through and "epochs", which is documents / these streams' share of the
          corpus; "labels" of the task. Documents count once all rows are given that were filled
          together with theirs.
        """
        labels = {task.name: getattr(task, "labels", {}) for task in self._tasks}
        return statistics(self.get_state() if state is None else state, labels)


def merged_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the states of all hosts' readers together, into one that any number of hosts takes.

    Args:
      states: of `BatchReader.get_state` behind the same batch, in any order. Hosts that read the
        same rows, as those that tensor parallelism spans do, give the same streams.

    Raises:
      ValueError: if readers, phases or steps differ, a stream is missing, or two states of a
        stream differ.
    """
    if not states:
        raise ValueError("there is no data state to merge; give those of all hosts.")
    first = states[0]
    for key in ("reader", "step", "earlier"):
        if other := [state[key] for state in states if state[key] != first[key]]:
            raise ValueError(
                f"the data states of hosts differ in {key!r}, {str(first[key]):.200} and "
                f"{str(other[0]):.200}; merge states taken behind the same batch of the same run."
            )
    streams: dict[str, Any] = {}
    for number, stream in (item for state in states for item in state["streams"].items()):
        if streams.setdefault(number, stream) != stream:
            raise ValueError(
                f"two data states hold stream {number}, and it does not stand at the same place "
                "in both; merge states of hosts that read the same batches."
            )
    if missing := set(range(first["reader"]["num_streams"])) - set(map(int, streams)):
        raise ValueError(
            f"the data states lack the streams {sorted(missing)}; give the state of every host."
        )
    return {**first, "streams": {number: streams[number] for number in sorted(streams, key=int)}}


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
    tasks: Sequence[Task], corpora: Mapping[str, Source], config: ReaderConfig
) -> dict[str, Any]:
    """Names all that a state depends on, to tell when it is given to another reader."""
    rates = with_factors({task.name: task.rate for task in tasks}, config.rate_factors)
    parts = [
        {
            "name": task.name,
            "corpus": task.corpus,
            "documents": len(corpora[task.corpus]),
            "rate": rates[task.name],
            "objective": _objective(task, config).spec(),
        }
        for task in tasks
    ]
    settings = asdict(config)
    del settings["max_epochs"]  # batches do not depend on it
    del settings["rate_factors"]  # but on the rates that these make
    return {"version": _VERSION} | settings | {"tasks": parts}


def _check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, lasting: bool) -> None:
    """Raises ValueError if a state's reader differs from this one, or in what lasts over phases."""
    if theirs.get("version") != _VERSION:
        raise ValueError(
            f"the data state is of version {theirs.get('version')} of the reader, this is "
            f"version {_VERSION}, which takes documents in another order; go on with the "
            "program that wrote it, or begin a new run from the checkpoint's parameters."
        )
    was, now = (_settings(description, lasting) for description in (theirs, ours))
    differing = [key for key in was | now if was.get(key) != now.get(key)]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        may_change = ", where only rates, lengths and the batch size may change" * lasting
        raise ValueError(
            f"the data state comes from another reader{may_change}: "
            + "; ".join(f"{k} was {was.get(k)}, is {now.get(k)}" for k in differing[:5])
            + f"{more}; restore the old settings, or begin a new run."
        )


def _settings(description: Mapping[str, Any], lasting: bool) -> dict[str, Any]:
    """Lists what a description says, or what of it no phase may change."""
    tasks = {
        f"task {task['name']}": task | {"place": place}
        for place, task in enumerate(description["tasks"])
    }
    if not lasting:
        return {key: value for key, value in description.items() if key != "tasks"} | tasks
    kept = {key: description[key] for key in ("seed", "num_streams", "packing")}
    return kept | {
        key: [task[k] for k in ("place", "corpus", "documents")] + [task["objective"]["kind"]]
        for key, task in tasks.items()
    }
