"""Writes corpora with Apache Beam, on as many machines as its runner has.

Beam shares out what `writing` shares out to processes, one unit of a source at a time, and
the corpora are the same, byte for byte. Every worker writes its shards into the cache folder, which
must therefore lie on a filesystem that this machine and all of them see under one absolute path
(NFS, Lustre, Filestore), as must the files of a local source; and every worker needs alexatm_jax.
This machine then finishes the corpora. Any runner will do; `beam_options` names it:

    ['--runner=DirectRunner', '--direct_running_mode=multi_processing', '--direct_num_workers=8']
    ['--runner=FlinkRunner', '--flink_master=HOST:8081', '--parallelism=64',
     '--environment_type=DOCKER', '--environment_config=IMAGE']
    ['--runner=SparkRunner', '--spark_master_url=spark://HOST:7077',
     '--environment_type=DOCKER', '--environment_config=IMAGE']
    ['--runner=DataflowRunner', '--project=P', '--region=R', '--temp_location=gs://BUCKET/tmp',
     '--sdk_container_image=IMAGE']

IMAGE is a container that has this package and mounts the shared folder. Tested are the local
runner's two modes; the other runners are Beam's own. A job that is killed is gone on with when it
is started again, with Beam or without. Some runners limit the description of a pipeline, which
holds the vocabulary and some 200 bytes a unit (Dataflow: 10 MB): raise the source's `unit_bytes`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from alexatm_jax.data.cache import CacheError, PathLike, Provenance
from alexatm_jax.data.corpora import writing as corpus_writing
from alexatm_jax.data.corpora.job import CorpusJob, Report, ShardTask, write_unit
from alexatm_jax.data.corpora.unfinished import UnfinishedCorpus
from alexatm_jax.data.corpora.writing import run_here


def write_corpora(
    cache_dir: PathLike, jobs: Sequence[CorpusJob], *, options: Sequence[str] = ()
) -> dict[str, Provenance]:
    """Writes corpora as `writing.write_corpora` does, units in Beam's workers.

    Sources that cannot be pickled, and jobs with `max_documents`, are read in this process.

    Args:
      cache_dir: folder of the cache, the same on every worker.
      jobs: what to write.
      options: Beam's pipeline options; [] is its local runner.

    Raises:
      ImportError: if Apache Beam is not installed.
      ValueError: if the options are no list.
      CacheError: as there, or if a worker wrote into another folder than this machine sees.
      Exception: what Beam raises when a unit failed for good; its text holds the unit's error.
    """
    if isinstance(options, str):
        raise ValueError(
            f"Beam's options are {options!r}; give a list of them, each such as '--runner=R'."
        )
    _import_beam()
    return corpus_writing.write_corpora(
        cache_dir, jobs, run=functools.partial(_run, options=options)
    )


def _import_beam() -> ModuleType:
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise ImportError(
            f"Apache Beam cannot be imported ({error}); install alexatm_jax[beam], or leave "
            "beam_options out to write the cache with processes of this machine."
        ) from error


def _run(
    unfinished: Sequence[UnfinishedCorpus], report: Report, options: Sequence[str]
) -> Iterator[tuple[ShardTask, Mapping[str, Any]]]:
    shared = [corpus for corpus in unfinished if corpus.can_be_shared()]
    yield from run_here([corpus for corpus in unfinished if corpus not in shared], report)
    tasks = [task for corpus in shared for task in corpus.pending]
    if tasks:
        _run_pipeline(tasks, options)
    for task in tasks:
        summary = task.summary()
        if summary is None:
            raise CacheError(
                f"{task} was written by a worker of Beam, but is not in {task.folder} here; put "
                "the cache on a filesystem that this machine and all workers share."
            )
        report((summary["read"], summary["shard"]["tokens"]))
        yield task, summary


def _run_pipeline(tasks: Sequence[ShardTask], options: Sequence[str]) -> None:
    beam = _import_beam()
    # Elements hold what differs between shards; jobs, with their vocabulary, travel once.
    any_of = {task.job.corpus: task for task in tasks}
    units = [(task.job.corpus, task.number, dict(task.unit)) for task in tasks]
    with beam.Pipeline(argv=list(options)) as pipeline:
        _ = (
            pipeline
            | "Units" >> beam.Create(units, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "WriteShards" >> beam.Map(functools.partial(_write_shard, any_of))
        )


def _write_shard(any_of: Mapping[str, ShardTask], unit: tuple[str, int, Mapping[str, Any]]) -> None:
    corpus, number, content = unit
    write_unit(dataclasses.replace(any_of[corpus], number=number, unit=content))
