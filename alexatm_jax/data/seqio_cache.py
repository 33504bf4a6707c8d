"""Writes what SeqIO has registered into our cache, which is then read without SeqIO.

`mixture_spec` and `evaluation_payload` read tasks back as data, and `build_cache` writes what
training and evaluation need.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import seqio

from alexatm_jax.data import cache
from alexatm_jax.data.cache import MixtureSpec, PathLike, TaskSpec
from alexatm_jax.data.seqio_few_shot import SeqioFewShotTask
from alexatm_jax.data.seqio_tasks import CachedDocuments, ObjectivePreprocessor, TokenizeDocuments
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.evaluation.prompts import FewShotTask


def registered(name: str) -> seqio.Task | seqio.Mixture:
    """Finds a task or mixture by name; raises ValueError with the nearest names if unknown."""
    registries = (seqio.MixtureRegistry, seqio.TaskRegistry)
    for registry in registries:
        if name in registry.names():
            return registry.get(name)
    known = sorted({known for registry in registries for known in registry.names()})
    near = difflib.get_close_matches(name, known, n=5, cutoff=0) or ["none at all"]
    raise ValueError(
        f"no SeqIO mixture or task is called {name!r}; the nearest of {len(known)} are "
        f"{', '.join(near)}; correct the name or import the module that registers it."
    )


def evaluation_payload(task_name: str) -> dict[str, Any]:
    """Gives a registered few-shot task as the JSON-able dict that the cache keeps.

    Raises:
      ValueError: if the name is unknown, or names another kind of task, or the items are
        unsound.
    """
    task = registered(task_name)
    if not isinstance(task, SeqioFewShotTask):
        raise ValueError(
            f"{task_name!r} is a {type(task).__name__}, which has no prompt and items; "
            "name a task that add_few_shot_task registered."
        )
    payload = {
        "name": task_name,
        "prompt": asdict(task.prompt),
        "items": task.items(),
        "shots": task.shot_pool(),
    }
    FewShotTask.from_payload(payload)
    return payload


def mixture_spec(mixture_name: str) -> MixtureSpec:
    """Reads a registered mixture, or a single task, back as data; rates sum to 1.

    Raises:
      ValueError: if the name is unknown (the message gives the nearest), a task was not
        registered by `add_pretraining_tasks`, or vocabularies differ.
    """
    return _mixture(mixture_name)[0]


def num_documents(mixture_name: str) -> dict[str, int | None]:
    """Gives the size of each corpus of a mixture; None where its source does not tell.

    It reads no document and loads no vocabulary.

    Raises:
      ValueError: if the name is unknown or a task was not registered by `add_pretraining_tasks`.
    """
    tasks = seqio.get_subtasks(registered(mixture_name))
    corpora = {_task_spec(task, 1.0).corpus: task for task in tasks}
    return {
        corpus: task.source.num_input_examples(task.preprocessors[1].split)
        for corpus, task in corpora.items()
    }


def build_cache(
    cache_dir: PathLike,
    mixture_name: str,
    *,
    evaluation_tasks: Sequence[str] = (),
    max_documents: int | None = None,
) -> MixtureSpec:
    """Writes a mixture and evaluation tasks into a cache, with all that they need.

    A corpus that is there already is kept if vocabulary and source are the same, so that
    the call costs little the second time.

    Args:
      cache_dir: folder of the cache; made if absent.
      mixture_name: a registered mixture or pre-training task.
      evaluation_tasks: names of registered few-shot tasks.
      max_documents: read only so many from each source.

    Raises:
      ValueError: as `mixture_spec` and `evaluation_payload`, or if the cache holds another
        vocabulary or another corpus of the same name, which are left alone.
    """
    spec, tasks, vocabulary = _mixture(mixture_name)
    payloads = [evaluation_payload(name) for name in evaluation_tasks]
    cache.install_vocabulary(cache_dir, vocabulary)
    for task in _one_per_corpus(tasks):
        _cache_corpus(cache_dir, task, vocabulary, max_documents)
    cache.write_mixture(cache_dir, spec)
    for payload in payloads:
        cache.write_evaluation_task(cache_dir, payload)
    return spec


def _mixture(name: str) -> tuple[MixtureSpec, list[seqio.Task], Vocabulary]:
    whole = registered(name)
    tasks = seqio.get_subtasks(whole)
    single = isinstance(whole, seqio.Task)
    rates = [1.0 if single else whole.get_rate(task) for task in tasks]
    drawn = [(task, rate) for task, rate in zip(tasks, rates, strict=True) if rate != 0]
    specs = tuple(_task_spec(task, rate / sum(rates)) for task, rate in drawn)
    vocabularies = {_tokenizer(task).vocabulary.wrapped.sha256: task for task, _ in drawn}
    if len(vocabularies) != 1:
        owners = {sha256: task.name for sha256, task in vocabularies.items()}
        raise ValueError(
            f"tasks of {name!r} have the vocabularies {owners}; a mixture needs exactly "
            "one; register its tasks with the same, at rates other than 0."
        )
    ((sha256, task),) = vocabularies.items()
    vocabulary = _tokenizer(task).vocabulary.wrapped
    return MixtureSpec(name, sha256, specs), [task for task, _ in drawn], vocabulary


def _task_spec(task: seqio.Task, rate: float) -> TaskSpec:
    steps = [type(step) for step in task.preprocessors]
    if steps != [TokenizeDocuments, CachedDocuments, ObjectivePreprocessor]:
        names = [step.__name__ for step in steps]
        raise ValueError(
            f"task {task.name!r} has the preprocessors {names}; our cache needs tokenized "
            "documents and an objective; register the task with add_pretraining_tasks."
        )
    _, documents, objective = task.preprocessors
    return TaskSpec(task.name, documents.corpus, rate, objective.objective.spec())


def _tokenizer(task: seqio.Task) -> TokenizeDocuments:
    return task.preprocessors[0]


def _one_per_corpus(tasks: Iterable[seqio.Task]) -> list[seqio.Task]:
    first: dict[str, seqio.Task] = {}
    for task in tasks:
        corpus = task.preprocessors[1].corpus
        other = first.setdefault(corpus, task)
        if other.source is not task.source:
            raise ValueError(
                f"tasks {other.name!r} and {task.name!r} call their corpus {corpus!r}, but "
                "read two sources; name the corpora apart or share one source."
            )
    return list(first.values())


def _cache_corpus(
    cache_dir: PathLike, task: seqio.Task, vocabulary: Vocabulary, max_documents: int | None
) -> None:
    marker = task.preprocessors[1]
    limit = "" if max_documents is None else f"the first {max_documents} documents of "
    cache.ensure_corpus(
        cache_dir,
        marker.corpus,
        _tokenized(task.source, marker.split, vocabulary, max_documents),
        split=marker.split,
        source=limit + (marker.description or _described(task.source)),
        vocabulary=vocabulary,
    )


def _described(source: seqio.DataSourceInterface) -> str:
    # Where an object lies in memory tells nothing about what it reads.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(source))


def _tokenized(
    source: seqio.DataSourceInterface,
    split: str,
    vocabulary: Vocabulary,
    max_documents: int | None,
) -> Iterator[np.ndarray]:
    dataset = source.get_dataset(split=split, shuffle=False)
    if "text" not in dataset.element_spec:
        raise ValueError(
            f"{source!r} yields the features {sorted(dataset.element_spec)}; documents are "
            "read from 'text'; rename the feature in the source."
        )
    examples = itertools.islice(dataset.as_numpy_iterator(), max_documents)
    # SentencePiece's own batches, tried with 1 and 2 threads, are no faster than its loop.
    for example in examples:
        yield vocabulary.encode(example["text"].decode())
