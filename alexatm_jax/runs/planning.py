"""Run mode `plan`: what a run needs of a machine, before anyone has rented it."""

from __future__ import annotations

import logging
from pathlib import Path

from alexatm_jax import preflight
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.model import ModelConfig
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning.advice import find_advice
from alexatm_jax.planning.job import Job
from alexatm_jax.planning.plan import Machine, make_plan, states_on
from alexatm_jax.planning.table import advice_text, as_json, as_text
from alexatm_jax.planning.topology import make_devices, parse_topology
from alexatm_jax.training.loop import TrainingConfig
from alexatm_jax.whole_files import write_json

logger = logging.getLogger(__name__)


def plan(
    model: ModelConfig,
    training: TrainingConfig,
    partitioning: Partitioning,
    task_feature_lengths: dict[str, int],
    batch_size: int,
    decoding: DecodingConfig,
    output_dir: str,
    topology: str | None = None,
    num_choices: int = 4,
    fill: float = 1.0,
    memory_gib: float | None = None,
    advice_seconds: float = 600.0,
) -> None:
    """Run mode `plan`: prints what a run needs of a machine, and writes it into plan.json.

    No data, no checkpoint and no accelerator is needed, and no parameter is allocated: the
    training step, the ranking of choices and generation are compiled, and what the compiler says
    is added to what shapes and formulas say (`planning.plan`).

    Args:
      model, training, partitioning, task_feature_lengths, batch_size: as for run mode `train`.
      decoding: as for run mode `eval`, on the same mesh.
      output_dir: gets `plan.json`; its content is described at `planning.table.as_json`.
      topology: such as "cpu:256" or "tpu:v4:4x4x8", see `planning.topology`; the devices present
        by default.
      num_choices: answers ranked for each prompt.
      fill: share of the training rows that is tokens and not padding.
      memory_gib: of one device, GiB; by default what is known of the topology.
      advice_seconds: how long to try what would make the run fit, where it does not; 0 tries
        nothing.
    """
    with preflight.refusing():
        preflight.check_writable(output_dir)
        preflight.check_feature_lengths(task_feature_lengths, model)
        lengths = (task_feature_lengths["inputs"], task_feature_lengths["targets"])
        job = Job(model, training, partitioning, *lengths, batch_size, decoding, num_choices, fill)
        place = parse_topology(topology)
        memory_bytes = None if memory_gib is None else int(memory_gib * 2**30)
        machine = Machine.of(place, make_devices(place), memory_bytes)
        states_on(job, machine)
    found = make_plan(job, machine)
    path = Path(output_dir) / "plan.json"
    write_json(path, as_json(found, ()))
    print(as_text(found), flush=True)
    if trials := find_advice(found, advice_seconds):
        write_json(path, as_json(found, trials))
        print("\n" + advice_text(trials))
    logger.info("wrote %s", path)
