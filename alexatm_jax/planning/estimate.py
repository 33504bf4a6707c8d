"""Multiplies the training steps of a plan out to its phases, and to the whole run."""

from __future__ import annotations

from typing import Any

from alexatm_jax.model.flops import PARTS
from alexatm_jax.planning.plan import Plan

ASSUMED_MFU = 0.5
"""Share of the peak that run times are quoted at, beside the ideal; the paper's 154 of 312
TFLOP/s (recipe §4) are 0.49."""


def phase_rows(plan: Plan) -> list[dict[str, Any]]:
    """Lists the phases of the run, each with what it trains and what that takes.

    Times are at ASSUMED_MFU, the ideal one with every device at its peak; None where the peak is
    unknown. `flops` are of the whole phase, `step_flops` of an update.
    """
    programs = {program.name: program for program in plan.programs}
    rows = []
    for name, phases in plan.job.steps.items():
        step = programs[name]
        trained = sum(row.parameters for row in plan.tables[name] if row.gradient_bytes)
        seconds = step.ideal_seconds and step.ideal_seconds / ASSUMED_MFU
        for phase in phases:
            steps = phase.end_step - phase.start_step
            row = {
                "phase": phase.number + 1,
                "program": name,
                "start_step": phase.start_step,
                "end_step": phase.end_step,
                "learning_rates": [
                    float(phase.schedule(at)) for at in (phase.start_step, phase.end_step - 1)
                ],
                "frozen": [part for part in PARTS if part in phase.frozen],
                "trained_parameters": trained,
                "batch_size": phase.batch_size,
                "source_length": phase.source_length,
                "target_length": phase.target_length,
                "rate_factors": dict(phase.rate_factors),
                "tokens": steps * step.tokens,
                "step_flops": step.flops,
                "flops": steps * step.flops,
                "ideal_step_seconds": step.ideal_seconds,
                "step_seconds": seconds,
                "days": seconds and steps * seconds / 86400,
            }
            rows.append(row)
    return sorted(rows, key=lambda row: row["phase"])


def run_estimate(plan: Plan) -> dict[str, float | None]:
    """Adds the phases up to the whole run.

    Returns:
      `steps`, `flops` and `tokens` of all updates; and, only *if* ASSUMED_MFU of the peak were
      reached, `days` and `tokens_per_second`, None where the peak is unknown.
    """
    rows = phase_rows(plan)
    sums = {name: sum(row[name] for row in rows) for name in ("flops", "tokens")}
    days = None if rows[0]["days"] is None else sum(row["days"] for row in rows)
    return {
        "steps": rows[-1]["end_step"],
        **sums,
        "assumed_mfu": ASSUMED_MFU,
        "tokens_per_second": days and sums["tokens"] / (86400 * days),
        "days": days,
    }
