"""What is planned: a model, how it trains and answers, and the mesh that it does so on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from alexatm_jax import preflight
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.phases import ResolvedPhase


@dataclasses.dataclass(frozen=True)
class Job:
    """All that the programs of a run depend on.

    Attributes:
      model, training, partitioning: as a training run takes them.
      source_length, target_length: tokens of a training row, unless a phase has its own.
      batch_size: rows of an update, over all devices and microbatches; likewise.
      decoding: how prompts are batched and answered, on the same mesh.
      num_choices: answers that ranking compares for each prompt.
      fill: the share of a row that is tokens and not padding; FLOPs count only these.
    """

    model: ModelConfig
    training: TrainingConfig
    partitioning: Partitioning
    source_length: int
    target_length: int
    batch_size: int
    decoding: DecodingConfig
    num_choices: int = 4
    fill: float = 1.0

    def check(self, num_devices: int) -> None:
        """Raises ValueError for what training on so many devices would refuse."""
        if not 0 < self.fill <= 1:
            raise ValueError(f"fill is {self.fill}; give the full share of a row, in (0, 1].")
        if self.num_choices < 1:
            raise ValueError(f"num_choices is {self.num_choices}; give 1 or more.")
        for phase in self.phases:
            with phase.blamed():
                lengths = {"inputs": phase.source_length, "targets": phase.target_length}
                preflight.check_feature_lengths(lengths, self.model)
                preflight.check_mesh(
                    self.partitioning,
                    phase.batch_size,
                    self.training.num_microbatches,
                    num_devices,
                )
        self.decoding.check_fits(self.model)

    @property
    def phases(self) -> tuple[ResolvedPhase, ...]:
        """What the run trains, and how, from step to step."""
        return self.training.resolved_phases(
            self.model, self.batch_size, self.source_length, self.target_length
        )

    @property
    def steps(self) -> dict[str, tuple[ResolvedPhase, ...]]:
        """The different training steps by name, each with the phases that take it.

        The only one is "train"; of several, each is named after the first phase that takes it,
        such as "train 1". Learning rates and rates of the mixture make no other step.
        """
        alike: dict[tuple, list[ResolvedPhase]] = {}
        for phase in self.phases:
            sizes = phase.batch_size, phase.source_length, phase.target_length
            alike.setdefault((frozenset(phase.groups.values()), *sizes), []).append(phase)
        if len(alike) == 1:
            return {"train": self.phases}
        return {f"train {phases[0].number + 1}": tuple(phases) for phases in alike.values()}

    @property
    def prompt_tokens(self) -> int:
        """The longest prompt that is answered; the plan takes all of them to be as long."""
        decoding = self.decoding
        return decoding.max_prompt_tokens or decoding.position_end or self.model.max_positions

    def mesh_sizes(self, num_devices: int) -> tuple[int, ...]:
        """Gives data, fsdp and tensor with -1 resolved."""
        return self.partitioning.mesh_shape(num_devices)

    def prompts_at_a_time(self, num_devices: int) -> int:
        """Gives the prompts of all parts of the mesh: decoding's batch size on each of them."""
        data, fsdp, _ = self.mesh_sizes(num_devices)
        return self.decoding.batch_size * data * fsdp

    def rows_per_device(self, num_devices: int, phases: Sequence[ResolvedPhase] = ()) -> int:
        """Gives the rows of a microbatch that each group of `tensor` devices computes.

        Args:
          phases: whose batches; of different ones, the rows that divide all are given. All phases
            by default.
        """
        data, fsdp, _ = self.mesh_sizes(num_devices)
        rows = math.gcd(*(phase.batch_size for phase in phases or self.phases))
        return rows // (self.training.num_microbatches * data * fsdp)
