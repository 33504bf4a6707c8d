"""The same tasks through `seqio.get_dataset`, as a SeqIO user would read them.

python -m benchmarks.seqio_peer STAGE FOLDER

The objectives are ours, in NumPy, as everywhere. TensorFlow's thread pools have one thread, for
the process has one core. Nothing is shuffled, which favours SeqIO: with 24 tasks its buffers of
1000 examples each took 20 to 45 s of processor time to fill before the first batch.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from alexatm_jax.data import cache
from alexatm_jax.data.seqio_tasks import SeqioVocabulary, add_pretraining_tasks
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.whole_files import write_json
from benchmarks.data_stages import (
    OBJECTIVES,
    Measure,
    Settings,
    filled,
    repeated,
    serve_stage,
    text_path,
)


def use_one_thread() -> None:
    """Keeps TensorFlow's thread pools to the one core of the process; before anything else."""
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)


def reading(folder: Path, settings: Settings, kind: str) -> Measure:
    """From SeqIO's own cache, TFRecords of tokens, to packed batches."""
    mixture = _register(folder, settings, kind)
    for language in settings.languages:
        _write_seqio_cache(folder, f"{kind}_{language}")
    seqio.set_global_cache_dirs([str(folder / "seqio")])
    return repeated(_batches(mixture, settings, use_cached=True), settings.seconds)


def from_text(folder: Path, settings: Settings, kind: str) -> Measure:
    """From lines of text, tokenized on the way, to packed batches."""
    mixture = _register(folder, settings, kind)
    return repeated(_batches(mixture, settings, use_cached=False), settings.seconds)


STAGES: dict[str, Callable[[Path, Settings], Measure]] = {
    "SeqIO reading short": partial(reading, kind="short"),
    "SeqIO reading long": partial(reading, kind="long"),
    "SeqIO from text": partial(from_text, kind="short"),
}
"""Name of a stage to what prepares it."""


def _register(folder: Path, settings: Settings, kind: str) -> str:
    vocabulary = SeqioVocabulary(lambda: Vocabulary(folder / "vocabulary.model"))
    for language in settings.languages:
        source = _lines(text_path(folder, kind, language))
        objectives = {name: objective for name, (objective, _) in OBJECTIVES.items()}
        add_pretraining_tasks(f"{kind}_{language}", source, vocabulary, objectives)
    rates = [
        (f"{kind}_{language}_{name}", rate)
        for language, (name, (_, rate)) in itertools.product(settings.languages, OBJECTIVES.items())
    ]
    seqio.MixtureRegistry.add(kind, rates)
    return kind


def _lines(path: Path) -> seqio.FunctionDataSource:
    def documents(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.TextLineDataset(str(path)).map(lambda line: {"text": line})

    return seqio.FunctionDataSource(documents, splits=["train"])


def _batches(mixture: str, settings: Settings, use_cached: bool) -> Iterator[int]:
    """Yields the filled tokens of each batch."""
    dataset = seqio.get_dataset(
        mixture_or_task_name=mixture,
        task_feature_lengths={"inputs": settings.length, "targets": settings.length},
        feature_converter=seqio.EncDecFeatureConverter(pack=True),
        dataset_split="train",
        use_cached=use_cached,
        shuffle=False,
        num_epochs=None,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    return map(filled, dataset.as_numpy_iterator())


def _write_seqio_cache(folder: Path, corpus: str) -> None:
    """Writes our cached tokens as `seqio.scripts.cache_tasks_main` does, for both objectives."""
    first, *others = (folder / "seqio" / f"{corpus}_{name}" for name in OBJECTIVES)
    if first.exists():
        return
    documents = cache.read_corpus(folder / "cache", corpus).source
    draft = first.with_name(f".{first.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    prefix = seqio.utils.get_cached_tfrecord_prefix(str(draft), "train")
    with tf.io.TFRecordWriter(f"{prefix}-00000-of-00001") as writer:
        for number in range(len(documents)):
            example = seqio.dict_to_tfexample({"targets": np.asarray(documents[number], np.int32)})
            writer.write(example.SerializeToString())
    info = {
        "num_shards": 1,
        "features": {"targets": {"dtype": "int32", "shape": [None]}},
        "seqio_version": seqio.__version__,
    }
    write_json(Path(seqio.utils.get_cached_info_path(str(draft), "train")), info)
    stats = {"examples": len(documents)}
    write_json(Path(seqio.utils.get_cached_stats_path(str(draft), "train")), stats)
    (draft / "COMPLETED").touch()
    draft.rename(first)
    for other in others:
        other.symlink_to(first)


if __name__ == "__main__":
    use_one_thread()
    serve_stage(STAGES[sys.argv[1]], Path(sys.argv[2]))
