"""Phases of a run: what changes at given steps, and what each phase trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.flops import ENCODER_PARTS, PARTS, existing_parts, head_part
from alexatm_jax.training.optimizer import LinearSchedule


@dataclasses.dataclass(frozen=True)
class Phase:
    """What changes at a step; whatever is None stays as in the phase before.

    The first phase starts with the run's own settings and nothing frozen. In a gin file, the
    paper's encoder frozen for 100 k updates (recipe §4) reads

        loop.TrainingConfig.phases = [@frozen/phases.Phase(), @thawed/phases.Phase()]
        frozen/phases.Phase.start_step = 0
        frozen/phases.Phase.frozen = ['encoder']
        thawed/phases.Phase.start_step = 100000
        thawed/phases.Phase.frozen = []

    Attributes:
      start_step: updates made before the phase begins.
      frozen: parts that are not trained, by the first names of the parameter tree
        (`model.flops.PARTS`); "encoder" is the encoder with all its embeddings.
      schedule: learning rates, by the number of updates since the run began.
      batch_size: rows of an update.
      source_length, target_length: tokens of a row.
      rate_factors: pattern of tasks' names to a factor on their rates in the mixture.

    Raises:
      ValueError: if a number is not whole or not positive, or `frozen` is no list of names.
    """

    start_step: int
    frozen: Sequence[str] | None = None
    schedule: LinearSchedule | None = None
    batch_size: int | None = None
    source_length: int | None = None
    target_length: int | None = None
    rate_factors: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("start_step", "batch_size", "source_length", "target_length"):
            value = getattr(self, name)
            if type(value) is not int and (value is not None or name == "start_step"):
                near = int(value) if isinstance(value, float) and math.isfinite(value) else 1000
                raise ValueError(
                    f"Phase.{name} is {value!r}; it must be a whole number, such as {near}."
                )
        if self.start_step < 0:
            raise ValueError(f"Phase.start_step is {self.start_step}; it must be 0 or more.")
        for name in ("batch_size", "source_length", "target_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Phase.{name} is {value}; give 1 or more, or None to keep it.")
        if isinstance(self.frozen, str):
            raise ValueError(f"Phase.frozen is {self.frozen!r}; give a list: [{self.frozen!r}].")


@dataclasses.dataclass(frozen=True)
class ResolvedPhase:
    """A phase with nothing left open.

    Attributes:
      number, count: which phase of how many; numbers count from 0.
      start_step, end_step: it makes the updates that have start_step to end_step - 1 behind them.
      frozen: names of `model.flops.PARTS` that it does not train.
      groups: the parts that it trains, by when they last began to: {"from_0": {"decoder", ...}}.
        Each group has an optimizer state, and so a count, of its own.
      schedule, batch_size, source_length, target_length, rate_factors: as in `Phase`.
    """

    number: int
    count: int
    start_step: int
    end_step: int
    frozen: frozenset[str]
    groups: Mapping[str, frozenset[str]]
    schedule: LinearSchedule
    batch_size: int
    source_length: int
    target_length: int
    rate_factors: Mapping[str, float]

    @property
    def trained(self) -> frozenset[str]:
        """The parts that are trained."""
        return frozenset().union(*self.groups.values())

    @property
    def target_tokens(self) -> int:
        """Places for target tokens in all its batches."""
        return (self.end_step - self.start_step) * self.batch_size * self.target_length

    @property
    def batch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the global batch."""
        return batch_shapes(self.batch_size, self.source_length, self.target_length)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Lets errors say which phase they are of, if there are several."""
        try:
            yield
        except ValueError as error:
            if self.count == 1:
                raise
            raise ValueError(f"{self}: {error}") from error

    def __str__(self) -> str:
        return f"phase {self.number + 1} of {self.count}, steps {self.start_step}-{self.end_step}"

    def description(self) -> str:
        """Says in one line what the phase does."""
        rates = [float(self.schedule(step)) for step in (self.start_step, self.end_step - 1)]
        parts = [
            f"{self.batch_size} x ({self.source_length} + {self.target_length}) tokens",
            f"learning rate {rates[0]:.3g} to {rates[1]:.3g}",
            f"frozen: {', '.join(sorted(self.frozen)) or 'nothing'}",
            *(f"{name} x {factor:g}" for name, factor in self.rate_factors.items()),
        ]
        return f"{self}: {'; '.join(parts)}"


def resolved(
    phases: Sequence[Phase],
    *,
    train_steps: int,
    model: ModelConfig,
    schedule: LinearSchedule,
    batch_size: int,
    source_length: int,
    target_length: int,
) -> tuple[ResolvedPhase, ...]:
    """Fills in what phases leave open.

    Args:
      phases: none stands for a single one with the run's own settings.
      train_steps: updates of the run.
      schedule, batch_size, source_length, target_length: the run's own.

    Returns:
      Phases that follow each other from step 0 to `train_steps`.

    Raises:
      ValueError: if start steps do not rise from 0 to below `train_steps`, or a phase freezes
        what this model does not have, what other parts use too, or all there is.
    """
    phases = tuple(phases) or (Phase(0),)
    starts = [phase.start_step for phase in phases]
    _check_starts(starts, train_steps)
    now: dict[str, Any] = dict(
        frozen=(),
        schedule=schedule,
        batch_size=batch_size,
        source_length=source_length,
        target_length=target_length,
        rate_factors={},
    )
    since: dict[str, int] = {}
    filled = []
    for number, (phase, end) in enumerate(zip(phases, [*starts[1:], train_steps], strict=True)):
        now |= {name: value for name in now if (value := getattr(phase, name)) is not None}
        frozen = _frozen_parts(now["frozen"], model, phase.start_step)
        trained = existing_parts(model) - frozen
        since = {part: since.get(part, phase.start_step) for part in sorted(trained)}
        groups = {
            f"from_{step}": frozenset(part for part in since if since[part] == step)
            for step in sorted(set(since.values()))
        }
        here = dict(number=number, count=len(phases), start_step=phase.start_step, end_step=end)
        filled.append(ResolvedPhase(**(now | here | dict(frozen=frozen, groups=groups))))
    return tuple(filled)


def _check_starts(starts: Sequence[int], train_steps: int) -> None:
    if starts[0] != 0 or list(starts) != sorted(set(starts)) or starts[-1] >= train_steps:
        raise ValueError(
            f"the phases start at the steps {', '.join(map(str, starts))} of {train_steps}; the "
            "first must start at 0, each later than the one before, all below train_steps: change "
            "Phase.start_step, leave phases out, or raise train_steps."
        )


def _frozen_parts(names: Sequence[str], model: ModelConfig, start_step: int) -> frozenset[str]:
    """Gives the parts that the names stand for, once they are known to make sense."""
    where = f"the phase from step {start_step} freezes"
    present = existing_parts(model)
    if unknown := sorted(set(names) - present):
        explained = [_absence(name, model) for name in unknown]
        raise ValueError(
            f"{where} {', '.join(explained)}; choose among {', '.join(_ordered(present))}."
        )
    named = set(names)
    if "encoder" in named:
        named |= ENCODER_PARTS
        others = _other_uses(model)
        if others and "encoder_tokens" not in names:
            raise ValueError(
                f"{where} 'encoder', whose table encoder_tokens is also {others}: name "
                "'encoder_tokens' beside it to freeze that too, or give the model tables of its "
                "own (ModelConfig.share_embeddings = False)."
            )
    if named >= present:
        raise ValueError(f"{where} {', '.join(names)}, which is the whole model; train some of it.")
    return frozenset(named)


def _absence(name: str, model: ModelConfig) -> str:
    if name == "lm_head":
        return f"'lm_head', which this model ties (tie_lm_head) to {head_part(model)}"
    if name in PARTS:
        return f"{name!r}, which this model shares (share_embeddings) with encoder_tokens"
    return f"{name!r}, which no model has"


def _other_uses(model: ModelConfig) -> str:
    """Says what else than the encoder reads the table encoder_tokens."""
    uses = ["the decoder's"] if model.share_embeddings else []
    return " and ".join(uses + ["the LM head"] * (head_part(model) == "encoder_tokens"))


def _ordered(parts: set[str]) -> list[str]:
    return [part for part in PARTS if part in parts]
