"""The programs of a run, as they are compiled: abstract arguments, placed on a mesh."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexatm_jax.decoding.encoded import Prompts
from alexatm_jax.decoding.generate import generate
from alexatm_jax.decoding.scoring import Texts, score_texts
from alexatm_jax.decoding.stops import ROW_MULTIPLE
from alexatm_jax.model.flops import Work, forward_flops, training_flops
from alexatm_jax.model.transformer import Transformer
from alexatm_jax.partitioning import batch_sharding, replicated
from alexatm_jax.planning.job import Job
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.state import (
    TrainState,
    abstract_params,
    abstract_state,
    state_shardings,
)
from alexatm_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile, and what it computes.

    Attributes:
      name: one of `program_names`.
      description: its shapes, for people.
      function, arguments, donate_argnums, out_shardings: for `jax.jit`; arguments are abstract.
      flops: floating-point operations of one call over all devices, from `model.flops`.
      tokens: real tokens of one call, read and written.
    """

    name: str
    description: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float
    tokens: float
    donate_argnums: tuple[int, ...] = ()
    out_shardings: Any = None


def placed_state(job: Job, mesh: Mesh, phase: ResolvedPhase) -> TrainState:
    """Gives a phase's training state abstractly: shapes, dtypes, and where they live."""
    model, optimizer = Transformer(job.model), job.training.optimizer
    shardings = state_shardings(model, optimizer, phase, job.partitioning, mesh)
    return abstract_state(model, optimizer, phase, shardings)


def program_names(job: Job) -> tuple[str, ...]:
    """Names the training step, or each of several (`Job.steps`), then "rank" and "generate"."""
    return (*job.steps, *_ANSWERING)


def make_program(name: str, job: Job, mesh: Mesh) -> Program:
    """Gives one of `program_names`, its arguments placed on the mesh."""
    if name in _ANSWERING:
        return _ANSWERING[name](job, mesh)
    return train_program(name, job, mesh)


def train_program(name: str, job: Job, mesh: Mesh) -> Program:
    """Gives one update of a phase as `training.loop` compiles it, the state donated."""
    config, phase = job.training, job.steps[name][0]
    step = make_train_step(
        Transformer(job.model),
        config.optimizer,
        phase,
        seed=config.seed,
        log_period_steps=config.log_period_steps,
        num_microbatches=config.num_microbatches,
        loss_chunk_length=config.loss_chunk_length,
    )
    state = placed_state(job, mesh, phase)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
        for name, shape in phase.batch_shapes.items()
    }
    source, target = phase.source_length, phase.target_length
    work = Work.of_rows(phase.batch_size, job.fill * source, job.fill * target)
    rows = job.rows_per_device(mesh.size, [phase])
    return Program(
        name,
        f"one update of {phase.batch_size} x ({source} + {target}) tokens in "
        f"{config.num_microbatches} microbatch(es), {rows} row(s) at a time on a device",
        step,
        (state, batch),
        training_flops(job.model, work, phase.frozen),
        work.encoder_tokens + work.decoder_tokens,
        donate_argnums=(0,),
        out_shardings=(shardings, shardings.sums),
    )


def rank_program(job: Job, mesh: Mesh) -> Program:
    """Gives the evaluation step that scores the choices of a batch of prompts."""
    batch, choices = job.prompts_at_a_time(mesh.size), job.num_choices
    source, target = job.prompt_tokens, job.decoding.max_new_tokens
    work = Work.of_rows(batch, source, target, choices)
    return Program(
        "rank",
        f"{choices} choices of {target} tokens for {batch} prompts of {source}",
        functools.partial(score_texts, Transformer(job.model)),
        (
            _placed_params(job, mesh),
            _prompts(job, mesh),
            _texts((batch, choices, target), mesh),
        ),
        forward_flops(job.model, work),
        work.encoder_tokens + work.decoder_tokens,
    )


def generate_program(job: Job, mesh: Mesh) -> Program:
    """Gives generation for a batch, all answers taken to be as long as they may."""
    config = job.decoding
    batch, source = job.prompts_at_a_time(mesh.size), job.prompt_tokens
    target = config.max_new_tokens
    work = Work.of_rows(batch, source, target, config.num_drafts)
    stops_QV = jax.ShapeDtypeStruct(
        (ROW_MULTIPLE, job.model.vocab_size), jnp.int32, sharding=replicated(mesh)
    )
    keys_B2 = _rows((batch, 2), mesh, jnp.uint32)
    drafts = f"{config.num_drafts} drafts each" if config.num_drafts > 1 else "greedy"
    return Program(
        "generate",
        f"{target} tokens for {batch} prompts of {source}, {drafts}",
        functools.partial(generate, Transformer(job.model), config=config, start_id=0, eos_id=0),
        (_placed_params(job, mesh), _prompts(job, mesh), stops_QV, keys_B2),
        forward_flops(job.model, work),
        work.encoder_tokens + work.decoder_tokens,
    )


_ANSWERING = {"rank": rank_program, "generate": generate_program}


def _placed_params(job: Job, mesh: Mesh) -> Any:
    return job.partitioning.placed_params(abstract_params(Transformer(job.model)), mesh)


def _prompts(job: Job, mesh: Mesh) -> Prompts:
    rows = _rows((job.prompts_at_a_time(mesh.size), job.prompt_tokens), mesh, jnp.int32)
    return Prompts(*(rows for _ in Prompts._fields))


def _texts(shape: tuple[int, int, int], mesh: Mesh) -> Texts:
    """A choice a line, every token of it scored."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    lines = _rows(shape, mesh, jnp.int32)
    scored = _rows((parts, math.prod(shape) // parts), mesh, jnp.int32)
    return Texts(lines, lines, lines, lines, lines, scored, scored)


def _rows(shape: tuple[int, ...], mesh: Mesh, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
