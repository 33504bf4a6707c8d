"""Run mode `train`: checks everything, then pre-trains."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from alexatm_jax import cluster, preflight
from alexatm_jax.data import cache, pipeline
from alexatm_jax.evaluation.report import plot_losses
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.runs.caching import DataConfig, check_can_build, is_cached, open_cache
from alexatm_jax.runs.training_data import (
    PhaseReaders,
    reader_configs,
    report_data,
    report_mixture,
)
from alexatm_jax.runs.validating import open_validation
from alexatm_jax.training import checkpoint, loop, warm_start_report
from alexatm_jax.training.goodput import Clock
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.state import TrainState, abstract_params, abstract_state, state_shardings
from alexatm_jax.training.warm_start import PreparedStart, WarmStart, check_same_start, prepare
from alexatm_jax.whole_files import write_json, write_whole

logger = logging.getLogger(__name__)


def train(
    model: ModelConfig,
    data: DataConfig,
    training: loop.TrainingConfig,
    partitioning: Partitioning,
    model_dir: str,
    task_feature_lengths: dict[str, int],
    batch_size: int,
    num_streams: int,
    packing: str = "document_separator",
    data_seed: int = 0,
    max_epochs: int | None = None,
    warm_start: WarmStart | None = None,
    config_text: str = "",
) -> None:
    """Run mode `train`: pre-trains into `model_dir`, from where it left off.

    Args:
      task_feature_lengths: {"inputs": S, "targets": T}, tokens; of the first phase, as batch_size.
      batch_size: rows of an update, over all devices and microbatches.
      num_streams, packing, data_seed, max_epochs: see `data.pipeline.ReaderConfig`.
      warm_start: parameters that a fresh run takes from another checkpoint; a run that goes on
        reads them no more.
      config_text: the gin text, kept with every checkpoint.
    """
    clock, network = Clock(), Transformer(model)
    with preflight.refusing():
        preflight.check_feature_lengths(task_feature_lengths, model)
        lengths = (task_feature_lengths["inputs"], task_feature_lengths["targets"])
        phases = training.resolved_phases(model, batch_size, *lengths)
        mesh = _checked_mesh(network, partitioning, phases, training.num_microbatches)
        configs = reader_configs(
            phases,
            seed=data_seed,
            num_streams=num_streams,
            packing=packing,
            max_epochs=max_epochs,
        )
        tokens = Path(model_dir).glob(cluster.SHARED_TOKENS)
        preflight.check_model_dir(model_dir, own=[data.cache_dir, *tokens])
        start = _prepare_start(model_dir, warm_start, network)
        _make_ready_to_cache(data, model_dir)
    mixture = _open_cache(data)
    with preflight.refusing():
        readers = PhaseReaders(data.cache_dir, mixture, phases, configs, mesh)
        report_mixture(data.cache_dir, mixture, phases, configs)
        provenance = _provenance(model, data.cache_dir, mixture, config_text)

        def left(step: int) -> TrainState:
            phase = loop.phase_that_left(phases, step)
            shardings = state_shardings(network, training.optimizer, phase, partitioning, mesh)
            return abstract_state(network, training.optimizer, phase, shardings)

        earlier = _check_earlier_checkpoint(model_dir, provenance, left, readers)
        provenance["warm_start"] = _describe_start(start, earlier, provenance["vocabulary_sha256"])
        heldout = None
        if training.validation:
            heldout = open_validation(data, training.validation, configs[0], mesh)
        if cluster.is_first():
            preflight.claim_model_dir(model_dir, data.mixture_or_task_name)
            write_whole(Path(model_dir) / "config.gin", config_text.encode())
            _report_start(start, earlier, model_dir)
    logger.info("mesh: %s", preflight.describe_mesh(mesh))
    with readers:
        loop.train(
            network,
            training,
            phases,
            partitioning,
            mesh,
            readers.open,
            model_dir,
            provenance,
            merged=pipeline.merged_states,
            on_checkpoint=lambda state: report_data(readers.statistics(state), mixture, model_dir),
            warm_start=start,
            validation_batches=heldout,
            clock=clock,
        )
    if cluster.is_first():
        plot_losses(Path(model_dir) / "metrics.jsonl", Path(model_dir) / "losses.png")


def _make_ready_to_cache(data: DataConfig, model_dir: str) -> None:
    """Checks in all processes that the cache is there, or in the first that it can be made."""
    makes = cluster.is_first() and not is_cached(data)
    if makes:
        # Alone, for it may write what is kept out of the text.
        check_can_build(data, data.max_documents)
    cluster.gathered(None)  # all processes have looked; from here on the first one writes
    cluster.check_shared_folder(model_dir, "MODEL_DIR")
    if makes:
        # The cache may lie within: were its making cut short, the folder would seem foreign.
        preflight.claim_model_dir(model_dir, data.mixture_or_task_name)


def _open_cache(data: DataConfig) -> cache.MixtureSpec:
    """Opens the cache in all processes, once the first one has made what is not there yet."""
    if cluster.is_first():
        mixture = open_cache(data)
        cluster.gathered(None)
        return mixture
    cluster.gathered(None)
    with preflight.refusing():
        if not cluster.seen_soon(lambda: is_cached(data)):
            raise ValueError(
                f"process {cluster.process_id()} finds no cache in CACHE_DIR {data.cache_dir}, "
                "which process 0 has; give a folder that all machines share."
            )
    return open_cache(data)


def _checked_mesh(
    network: Transformer,
    partitioning: Partitioning,
    phases: Sequence[ResolvedPhase],
    num_microbatches: int,
) -> Mesh:
    """Makes the mesh of all devices, once batches and parameters are known to divide over it."""
    for phase in phases:
        with phase.blamed():
            preflight.check_mesh(
                partitioning, phase.batch_size, num_microbatches, jax.device_count()
            )
            lengths = {"inputs": phase.source_length, "targets": phase.target_length}
            preflight.check_feature_lengths(lengths, network.config)
    mesh = partitioning.make_mesh()
    partitioning.param_shardings(abstract_params(network), mesh)
    return mesh


def _provenance(
    model: ModelConfig, cache_dir: str, mixture: cache.MixtureSpec, config_text: str
) -> dict[str, Any]:
    """Says what the checkpoints of this run are made with."""
    vocabulary = cache.read_vocabulary(cache_dir)
    preflight.check_vocabulary_size(vocabulary.size, model)
    return {
        "model": dataclasses.asdict(model),
        "vocabulary_sha256": vocabulary.sha256,
        "mixture": mixture.mixture,
        "gin": config_text,
    }


def _check_earlier_checkpoint(
    model_dir: str,
    provenance: dict[str, Any],
    left: Callable[[int], TrainState],
    readers: PhaseReaders,
) -> dict[str, Any]:
    """Checks that the run can go on from its newest checkpoint; gives its provenance, if any.

    Args:
      left: gives the abstract state that this run would have saved at a step.
    """
    folder = Path(model_dir) / "checkpoints"
    step = checkpoint.locate(folder)[1] if _holds_checkpoint(folder) else None
    cluster.check_alike("checkpoints", {"newest": step})
    if step is None:
        return {}
    found = checkpoint.read_provenance(folder)
    checkpoint.check_provenance(found, provenance, str(folder))
    checkpoint.check_state(folder, left(step))
    readers.check_state(checkpoint.read_reader_state(folder), step)
    return found


def _holds_checkpoint(folder: Path) -> bool:
    # A save that was cut short leaves a longer name.
    return any(path.name.isdigit() for path in folder.glob("*"))


def _prepare_start(
    model_dir: str, setting: WarmStart | None, network: Transformer
) -> PreparedStart | None:
    """Prepares what a fresh run starts from; a run that goes on has had its start."""
    folder = Path(model_dir) / "checkpoints"
    if _holds_checkpoint(folder):
        check_same_start(checkpoint.read_provenance(folder).get("warm_start"), setting, folder)
        return None
    return prepare(setting, network) if setting else None


def _describe_start(
    start: PreparedStart | None, earlier: dict[str, Any], vocabulary_sha256: str
) -> dict[str, Any] | None:
    """Says what the run starts, or once started, from; None if from nothing."""
    if start is None:
        return earlier.get("warm_start")
    start.check_vocabulary(vocabulary_sha256)
    return start.provenance


def _report_start(start: PreparedStart | None, earlier: dict[str, Any], model_dir: str) -> None:
    """Logs what a fresh run starts from, and keeps every leaf of it in warm_start.json."""
    path = Path(model_dir) / "warm_start.json"
    if start:
        logger.info("%s", "\n".join(warm_start_report.as_lines(start)))
        write_json(path, warm_start_report.as_json(start))
    elif not earlier:
        path.unlink(missing_ok=True)  # of a run that never reached a checkpoint
    elif was := earlier.get("warm_start"):
        logger.info("going on; the warm start from %s is not read again", was["checkpoint"])
