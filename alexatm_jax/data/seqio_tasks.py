"""The bridge from SeqIO's registry to our cache; the only module here that needs SeqIO.

Tasks registered here are ordinary: `seqio.get_dataset` reads them, and any mixture may name
them. `mixture_spec` and `evaluation_payload` read them back as data, and `build_cache`
writes what training and evaluation then read without SeqIO or TensorFlow.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from alexatm_jax.data import cache
from alexatm_jax.data.cache import MixtureSpec, PathLike, TaskSpec
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.evaluation.metrics import chrf, exact_match
from alexatm_jax.evaluation.prompts import FewShotPrompt, FewShotTask

_UNLIMITED = np.iinfo(np.int32).max


class SeqioVocabulary(seqio.Vocabulary):
    """Gives SeqIO our vocabulary, which is loaded, or trained, when first used.

    Registering tasks therefore costs nothing. Two are equal if their loaders or, failing
    that, their model files are.
    """

    def __init__(self, load: Callable[[], Vocabulary]) -> None:
        super().__init__()
        self._load = load

    @functools.cached_property
    def wrapped(self) -> Vocabulary:
        """The vocabulary itself."""
        return self._load()

    @property
    def bos_id(self) -> int:
        return self.wrapped.special.bos

    @property
    def eos_id(self) -> int:
        return self.wrapped.special.eos

    @property
    def unk_id(self) -> int:
        return self.wrapped.special.unk

    @property
    def pad_id(self) -> int:
        return self.wrapped.special.pad

    @property
    def _base_vocab_size(self) -> int:
        return self.wrapped.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioVocabulary):
            return False
        return self._load == other._load or self.wrapped.sha256 == other.wrapped.sha256

    def _encode(self, s: str) -> list[int]:
        return self.wrapped.encode(s).tolist()

    def _decode(self, ids: Sequence[int]) -> str:
        return self.wrapped.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:
            # TensorFlow hands over bytes in a graph and an array around them elsewhere.
            return self.wrapped.encode(np.asarray(text, object).item().decode())

        ids = tf.numpy_function(encode, [s], tf.int32)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> Any:
            if rows.ndim == 1:
                return self.wrapped.decode(rows).encode()
            return np.array([decode(row) for row in rows], object)

        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), ids.shape[:-1])


class TokenizeDocuments:
    """Preprocessor from "text" to "targets", int32 [N]; empty documents go."""

    def __init__(self, vocabulary: SeqioVocabulary) -> None:
        self.vocabulary = vocabulary

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        dataset = dataset.map(
            lambda example: {"targets": self.vocabulary.encode_tf(example["text"])},
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return dataset.filter(lambda example: tf.size(example["targets"]) > 0)


class CachedDocuments(seqio.CacheDatasetPlaceholder):
    """Marks the tokenized documents, and names the corpus that they are in our cache.

    Tasks of one corpus share its documents there. SeqIO's own caching works too.
    """

    def __init__(self, corpus: str, description: str = "", split: str = "train") -> None:
        super().__init__()
        self.corpus, self.description, self.split = corpus, description, split


class ObjectivePreprocessor:
    """Preprocessor from "targets" [N] to an objective's "inputs" and "targets".

    The numpy objective is the one that trains; its randomness comes from SeqIO's seeds, so
    that a dataset with a seed repeats itself. Documents too long for the feature lengths
    become several examples. An objective's encoder positions are not SeqIO features: only
    our own reader gives them.
    """

    def __init__(self, objective: Objective, vocabulary: SeqioVocabulary) -> None:
        self.objective, self.vocabulary = objective, vocabulary

    def __call__(
        self, dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
    ) -> tf.data.Dataset:
        lengths = sequence_length or {}
        inputs = lengths.get("inputs") or _UNLIMITED
        targets = lengths.get("targets") or _UNLIMITED
        pieces = functools.partial(self._pieces, inputs, targets)
        return seqio.map_over_dataset(self._apply, num_seeds=1)(dataset.flat_map(pieces))

    def _pieces(
        self, encoder_length: int, decoder_length: int, example: Mapping[str, tf.Tensor]
    ) -> tf.data.Dataset:
        def split(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            parts = self.objective.split_document(tokens, encoder_length, decoder_length)
            sizes = np.array([len(part) for part in parts], np.int32)
            return tokens[: sizes.sum()], sizes

        values, sizes = tf.numpy_function(split, [example["targets"]], [tf.int32, tf.int32])
        ragged = tf.RaggedTensor.from_row_lengths(
            tf.ensure_shape(values, [None]), tf.ensure_shape(sizes, [None])
        )
        return tf.data.Dataset.from_tensor_slices({"targets": ragged})

    def _apply(
        self, example: Mapping[str, tf.Tensor], seed: tuple[tf.Tensor, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        def divide(tokens: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng(seed.astype(np.uint64))
            return self.objective(tokens, self.vocabulary.wrapped.special, rng)

        inputs, targets = tf.numpy_function(
            divide, [example["targets"], tf.stack(seed)], [tf.int32, tf.int32]
        )
        return {
            "inputs": tf.ensure_shape(inputs, [None]),
            "targets": tf.ensure_shape(targets, [None]),
        }


def add_pretraining_tasks(
    corpus: str,
    source: seqio.DataSourceInterface,
    vocabulary: SeqioVocabulary,
    objectives: Mapping[str, Objective],
    *,
    description: str = "",
) -> None:
    """Registers one SeqIO task per objective over the documents of one source.

    Args:
      corpus: name of the documents in our cache, where the tasks share them.
      source: yields examples with the feature "text", one NFC document each.
      vocabulary: tokenizes them.
      objectives: suffix to objective; the task is called "{corpus}_{suffix}".
      description: names all that the documents depend on, such as seeds and numbers, so
        that a cache of other documents is noticed; by default what `source` prints as.
    """
    for suffix, objective in objectives.items():
        seqio.TaskRegistry.add(
            f"{corpus}_{suffix}",
            source=source,
            preprocessors=[
                TokenizeDocuments(vocabulary),
                CachedDocuments(corpus, description),
                ObjectivePreprocessor(objective, vocabulary),
            ],
            output_features=_features(vocabulary),
        )


class SeqioFewShotTask(seqio.Task):
    """A SeqIO task that keeps its prompt, items and shots at hand.

    Its split "test" gives the zero-shot prompt of every item, with the gold answer as
    target; "shots" does so for the pool.
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: FewShotPrompt,
        items: Callable[[], list[dict]],
        shot_pool: Callable[[], list[dict]],
        **task: Any,
    ) -> None:
        super().__init__(name, **task)
        self.prompt, self.items, self.shot_pool = prompt, items, shot_pool


class RenderPrompt:
    """Preprocessor from JSON under "entry" to prompt and answer, as text and as tokens."""

    def __init__(self, prompt: FewShotPrompt, vocabulary: SeqioVocabulary) -> None:
        self.prompt, self.vocabulary = prompt, vocabulary

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(self._map, num_parallel_calls=tf.data.AUTOTUNE)

    def _map(self, example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        text, ids = tf.string, tf.int32
        values = tf.numpy_function(self._render, [example["entry"]], [text, text, ids, ids])
        names = ("inputs_pretokenized", "targets_pretokenized", "inputs", "targets")
        features = {
            name: tf.ensure_shape(value, [None] if value.dtype == ids else [])
            for name, value in zip(names, values, strict=True)
        }
        return dict(example) | features

    def _render(self, entry: bytes) -> tuple[bytes, bytes, np.ndarray, np.ndarray]:
        fields = json.loads(entry)
        question = self.prompt.render(fields, ())
        answer = fields["target"] if "target" in fields else self._answer_of(fields)
        vocabulary = self.vocabulary.wrapped
        targets = np.append(vocabulary.encode(answer), np.int32(vocabulary.special.eos))
        inputs = vocabulary.encode_prompt(question)
        return question.encode(), answer.encode(), inputs, targets

    def _answer_of(self, shot: dict) -> str:
        """What a solved example says after its question, which it may or may not repeat."""
        solved = self.prompt.shot.format_map(shot)
        return self.prompt.cut(solved.removeprefix(self.prompt.query.format_map(shot)))


def add_few_shot_task(
    name: str,
    prompt: FewShotPrompt,
    items: Callable[[], list[dict]],
    shot_pool: Callable[[], list[dict]],
    vocabulary: SeqioVocabulary,
) -> None:
    """Registers a SeqIO task that asks items of data, scored by exact match and chrF.

    Args:
      name: name of the task, here and in the cache.
      prompt: templates.
      items: gives what to ask, `evaluation.prompts` says in which form.
      shot_pool: gives the solved examples to draw shots from; each has the fields of both
        templates.
      vocabulary: tokenizes prompts and answers.
    """

    def entries(split: str, shuffle_files: bool, seed: int = 0) -> tf.data.Dataset:
        split_entries = items() if split == "test" else shot_pool()
        texts = [json.dumps(entry, ensure_ascii=False) for entry in split_entries]
        return tf.data.Dataset.from_tensor_slices({"entry": tf.constant(texts, tf.string)})

    def answer(text: str, **unused: Any) -> str:
        return prompt.cut(text)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(entries, splits=("test", "shots")),
        preprocessors=[RenderPrompt(prompt, vocabulary)],
        postprocess_fn=answer,
        metric_fns=[exact_match, chrf],
        output_features=_features(vocabulary),
        task_cls=SeqioFewShotTask,
        prompt=prompt,
        items=items,
        shot_pool=shot_pool,
    )


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


def _features(vocabulary: SeqioVocabulary) -> dict[str, seqio.Feature]:
    # Objectives end their targets with `</s>` themselves.
    return dict.fromkeys(("inputs", "targets"), seqio.Feature(vocabulary, add_eos=False))


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
