"""Registers pre-training tasks with SeqIO.

They are ordinary tasks: `seqio.get_dataset` reads them, and any mixture may name them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.seqio_documents import DocumentDataSource
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.documents import DocumentSource
from alexatm_jax.text.preparation import Preparation

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
    """Preprocessor from "text" to "targets", int32 [N]; empty documents go.

    With a `preparation` the text is prepared first: sentences of benchmarks go, and the rest takes
    its written or spoken form.
    """

    def __init__(self, vocabulary: SeqioVocabulary, preparation: Preparation | None = None) -> None:
        self.vocabulary, self.preparation = vocabulary, preparation

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        dataset = dataset.map(
            lambda example: {"targets": self.vocabulary.encode_tf(self._prepared(example["text"]))},
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return dataset.filter(lambda example: tf.size(example["targets"]) > 0)

    def _prepared(self, text: tf.Tensor) -> tf.Tensor:
        preparation = self.preparation
        if preparation is None:
            return text

        def prepare(document: bytes) -> bytes:
            return preparation(document.decode()).text.encode()

        return tf.ensure_shape(tf.numpy_function(prepare, [text], tf.string), [])


class CachedDocuments(seqio.CacheDatasetPlaceholder):
    """Marks the tokenized documents, and says what our cache needs to make them.

    Tasks of one corpus share its documents there. SeqIO's own caching works too.

    Attributes:
      corpus: its name in our cache.
      split: of the source.
      description: all that the documents depend on, or "" for what the source says itself.
      documents: where they come from, if that is a source of ours.
      preparation: what is done to each before it is tokenized.
      labels: what is known of the corpus, such as its source, language and form.
    """

    def __init__(
        self,
        corpus: str,
        description: str = "",
        split: str = "train",
        *,
        documents: DocumentSource | None = None,
        preparation: Preparation | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.corpus, self.description, self.split = corpus, description, split
        self.documents, self.preparation = documents, preparation
        self.labels = dict(labels or {})


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
    source: seqio.DataSourceInterface | DocumentSource,
    vocabulary: SeqioVocabulary,
    objectives: Mapping[str, Objective],
    *,
    preparation: Preparation | None = None,
    labels: Mapping[str, str] | None = None,
    description: str = "",
) -> None:
    """Registers one SeqIO task per objective over the documents of one source.

    Args:
      corpus: name of the documents in our cache, where the tasks share them.
      source: documents of ours, or a SeqIO source of examples with the feature "text", one
        document each.
      vocabulary: tokenizes them.
      objectives: suffix to objective; the task is called "{corpus}_{suffix}".
      preparation: brings each document into the form that is tokenized; without one it must be
        NFC already, and stays as it is.
      labels: what is known of the corpus ("source", "language", "form"), for reports.
      description: names all that the documents depend on, such as seeds and numbers, so
        that a cache of other documents is noticed; by default what `source` says of itself.
    """
    documents = None
    if hasattr(source, "units"):
        documents, source = source, DocumentDataSource(source)
    for suffix, objective in objectives.items():
        marker = CachedDocuments(
            corpus, description, documents=documents, preparation=preparation, labels=labels
        )
        seqio.TaskRegistry.add(
            f"{corpus}_{suffix}",
            source=source,
            preprocessors=[
                TokenizeDocuments(vocabulary, preparation),
                marker,
                ObjectivePreprocessor(objective, vocabulary),
            ],
            output_features=features(vocabulary),
        )


def features(vocabulary: SeqioVocabulary) -> dict[str, seqio.Feature]:
    """Names the two features of every task of ours, in one vocabulary."""
    # Objectives end their targets with `</s>` themselves.
    return dict.fromkeys(("inputs", "targets"), seqio.Feature(vocabulary, add_eos=False))
