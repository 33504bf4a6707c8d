"""A small job on eight simulated devices, and its plan, compiled once."""

from __future__ import annotations

import jax
import pytest

from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.model import ModelConfig
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning.job import Job
from alexatm_jax.planning.plan import Machine, make_plan
from alexatm_jax.planning.topology import Topology
from alexatm_jax.training.loop import TrainingConfig
from alexatm_jax.training.optimizer import AdamW, LinearSchedule


@pytest.fixture(scope="session")
def make_job():
    """Makes a job whose dimensions all differ, on data 2 x fsdp 2 x tensor 2."""

    def make(
        partitioning: Partitioning = Partitioning(2, 2, 2),  # noqa: B008
        num_microbatches: int = 2,
        rows: int = 16,
        **changes,
    ) -> Job:
        model = dict(
            vocab_size=52,
            d_model=16,
            num_heads=4,
            d_ff=24,
            num_encoder_layers=2,
            num_decoder_layers=3,
            decoder_d_ff=20,
            max_positions=12,
            dropout_rate=0.0,
            encoder_attention_dropout_rate=0.0,
        )
        optimizer = AdamW(LinearSchedule(1e-3, 1e-4, total_steps=50))
        return Job(
            ModelConfig(**(model | changes)),
            TrainingConfig(50, optimizer, num_microbatches, loss_chunk_length=4),
            partitioning,
            source_length=10,
            target_length=8,
            batch_size=rows,
            decoding=DecodingConfig(batch_size=4, max_new_tokens=5),
            num_choices=3,
        )

    return make


@pytest.fixture(scope="session")
def make_machine():
    """Makes eight devices, with so many bytes of memory each and 1 GFLOP/s."""

    def make(usable_bytes: int | None = None) -> Machine:
        topology = Topology("eight", "cpu", 8, "toy", None, 2e9, "XLA:CPU", 1e9)
        return Machine(topology, jax.devices()[:8], usable_bytes)

    return make


@pytest.fixture(scope="session")
def plan(make_job, make_machine):
    """The job's plan; nothing is known of the memory."""
    return make_plan(make_job(), make_machine())
