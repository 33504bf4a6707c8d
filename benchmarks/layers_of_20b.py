"""Trains as many layers of 20B shape as fit this accelerator: its model FLOPs utilisation.

python -m benchmarks.layers_of_20b [--json] [--batch_size N] [--remat POLICY ...]

It needs jax, flax, optax and orbax alone, and takes one accelerator; `--groups` and small sizes
try it on a CPU.
"""

from __future__ import annotations

import argparse
import collections
import functools
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexatm_jax.hardware import peak_flops
from alexatm_jax.model.attention import attend
from alexatm_jax.model.masks import Segments
from benchmarks import command, matmul
from benchmarks.command import aligned, gibibytes
from benchmarks.own_model import Training, compiled_step, step_flops, variant
from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, machine, repeated, tell, versions

GROUP = (3, 2)
"""Encoder and decoder layers are added together, nearly as 46 to 32."""

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"

USABLE = 0.97
"""Of the memory that the device gives to programs; the rest is lost between buffers."""

CHANGES = {
    "dtype": "bfloat16",
    "share_embeddings": True,
    "tie_lm_head": True,
    # cuDNN's and splash attention drop no probabilities.
    "encoder_attention_dropout_rate": 0.0,
}
"""One table of 153,600 rows leaves room for layers, and its head is counted and computed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `command.run`."""
    return command.run(arguments, _parser(), measure, table)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compares attention with its definition, times matrix products, then steps.

    Returns:
      What --json prints: "runs", one for each remat policy, or what went wrong in it;
      "attention_errors"; "device"; "peak_flops" of the data sheet; "matmul_flops"; "versions",
      "machine".
    """
    device = jax.devices()[0]
    shape = Shape.of_options(options)
    square = (options.matmul_size,) * 3
    errors = attention_errors(shape)
    tell(f"attention's errors: {errors}")
    rate = matmul.prepare([square], "bfloat16", 20)().per_second
    tell(f"matrix products: {rate / 1e12:,.2f} TFLOP/s")
    peak = peak_flops(device, "bfloat16")
    return {
        "benchmark": "layers_of_20b",
        "runs": [run(shape, remat, options, peak, rate) for remat in options.remat],
        "attention_errors": errors,
        "device": device.device_kind,
        "peak_flops": peak,
        "matmul_flops": rate,
        "versions": versions("jax", "jaxlib", "flax", "optax"),
        "machine": machine(),
    }


def run(
    shape: Shape,
    remat: str,
    options: argparse.Namespace,
    peak: float | None,
    matmul_rate: float,
) -> dict[str, Any]:
    """Times steps with one remat policy and as many layers as fit, or as were asked for.

    One group fewer is taken if memory runs out all the same. A policy that fails leaves the others
    their figures: its own entry is {"remat", "error"}.
    """
    changes = CHANGES | variant(options.set) | {"remat": remat}
    limit = math.inf if options.groups else _memory_limit()
    groups = options.groups or groups_that_fit(shape, changes, limit)
    while True:
        try:
            found = _timed(_with_groups(shape, groups), changes, options.steps)
            break
        except jax.errors.JaxRuntimeError as error:
            told = f"remat {remat}, {groups} groups: {str(error)[:500]}"
            if options.groups or groups == 1 or OUT_OF_MEMORY not in told:
                tell(told)
                return {"remat": remat, "error": told}
        tell(f"remat {remat}: {groups} groups ran out of memory")
        groups -= 1
    flops = found["flops_per_second"]
    found |= {"remat": remat, "mfu": flops / peak if peak else None}
    tell(f"remat {remat}: {found['tokens_per_second']:,.0f} tokens/s, MFU {_share(found['mfu'])}")
    return found | {"matmul_share": flops / matmul_rate}


def _timed(shape: Shape, changes: Mapping[str, Any], steps: int) -> dict[str, Any]:
    tell(f"remat {changes['remat']}: {shape.encoder_layers} + {shape.decoder_layers} layers")
    training = Training(shape, changes, num_devices=1)
    training.step()
    timing = repeated(training.step, steps)()
    stats = jax.devices()[0].memory_stats() or {}
    kernels = re.findall(r'custom_call_target="([^"]+)"', training.program.as_text() or "")
    return {
        "shape": asdict(shape),
        "tokens_per_second": timing.per_second,
        "flops_per_second": step_flops(shape, changes) / shape.tokens * timing.per_second,
        "compiled_bytes": _bytes(training.program),
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "kernels": dict(collections.Counter(kernels)),
    }


def groups_that_fit(shape: Shape, changes: Mapping[str, Any], limit: float) -> int:
    """Finds how many groups of layers fit, from what the compiler says of one and of two.

    Raises:
      BenchmarkError: if not even one fits.
    """

    @functools.cache
    def needed(groups: int) -> float:
        try:
            return _bytes(compiled_step(_with_groups(shape, groups), changes, num_devices=1))
        except jax.errors.JaxRuntimeError as error:  # a TPU's compiler refuses what is too large
            if OUT_OF_MEMORY not in str(error):
                raise
            return math.inf

    one, two = needed(1), needed(2)
    groups = 1 + int((USABLE * limit - one) // (two - one)) if two < math.inf else 1
    while groups > 0 and (found := needed(groups)) > USABLE * limit:
        tell(f"{groups} groups would need {found / 2**30:.1f} GiB")
        groups -= 1
    if groups < 1:
        raise BenchmarkError(
            f"one group of layers needs {one / 2**30:.1f} GiB, and there are "
            f"{limit / 2**30:.1f}; lower --batch_size or --vocab_size."
        )
    return groups


def attention_errors(shape: Shape, rows: int = 2) -> dict[str, float]:
    """Compares attention in bfloat16, as training computes it here, with its float32 definition.

    Rows have two examples and padding; causal self-attention and cross-attention alternate.

    Returns:
      By name, the largest error of outputs and gradients over the largest value: of what "auto"
      takes, and of the definition computed in bfloat16, beside which it can be judged.
    """
    length, heads = shape.source_length, shape.num_heads
    size = (rows, length, heads, shape.d_model // heads)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weights = (jax.random.normal(key, size, jnp.bfloat16) for key in keys)
    places = np.arange(length)
    row = np.where(places < length // 2, 1, np.where(places < length - length // 8, 2, 0))
    segments = jnp.asarray(np.tile(row, (rows, 1)), jnp.int32)
    real = (segments > 0)[..., None, None]

    def results(implementation: str, causal: bool, dtype: str) -> list[Array]:
        def total(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
            visible = Segments(segments, segments, causal)
            out = attend(q, k, v, visible, implementation=implementation)
            out = jnp.where(real, out, 0).astype(jnp.float32)
            return (out * weights.astype(jnp.float32)).sum(), out

        inputs = [x.astype(dtype) for x in (q, k, v)]
        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        gradients, out = compiled(*inputs)
        return [out, *gradients]

    def error(implementation: str, causal: bool) -> float:
        with jax.default_matmul_precision("highest"):  # by default TF32, or bfloat16
            wanted = results("reference", causal, "float32")
        found = results(implementation, causal, "bfloat16")
        errors = [
            jnp.abs(f.astype(jnp.float32) - w).max() / jnp.abs(w).max()
            for f, w in zip(found, wanted, strict=True)
        ]
        return float(np.max(errors))  # not a number if one of them is

    return {
        f"{name}, {kind}": error(name, kind == "causal")
        for kind in ("causal", "full")
        for name in ("auto", "reference")
    }


def _with_groups(shape: Shape, groups: int) -> Shape:
    encoder, decoder = (groups * layers for layers in GROUP)
    return replace(shape, encoder_layers=encoder, decoder_layers=decoder)


def _bytes(program: jax.stages.Compiled) -> int:
    memory: Any = program.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    return int(arguments + outputs + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def _memory_limit() -> int:
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        raise BenchmarkError("this device does not tell its memory; say how many --groups to take.")
    return int(stats["bytes_limit"])


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    rows: dict[str, list[str]] = {}
    for found in result["runs"]:
        if "error" in found:
            rows[found["error"]] = []
            continue
        shape = found["shape"]
        name = f"{found['remat']}, {shape['encoder_layers']} + {shape['decoder_layers']}"
        rows[name] = [
            f"{found['tokens_per_second']:,.0f}",
            f"{found['flops_per_second'] / 1e12:,.2f}",
            _share(found["mfu"]),
            f"{found['matmul_share']:.1%}",
            gibibytes(found["compiled_bytes"]),
        ]
    columns = ("tokens/s", "TFLOP/s", "MFU", "of matmul", "compiled GiB")
    lines = aligned(columns, rows, heading="remat and layers")
    for found in result["runs"]:
        told = [f"{name} {count}" for name, count in found.get("kernels", {}).items()]
        lines.append(f"kernels with remat {found['remat']}: {', '.join(told) or 'none'}")
    lines += [f"attention, {name}: error {e:.1e}" for name, e in result["attention_errors"].items()]
    peak = result["peak_flops"]
    sheet = "no data sheet" if peak is None else f"data sheet {peak / 1e12:,.0f} TFLOP/s"
    lines.append(
        f"{result['device']}: {sheet}, bfloat16 matrix products "
        f"{result['matmul_flops'] / 1e12:,.2f} TFLOP/s."
    )
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("layers_of_20b", __doc__)
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--remat", nargs="+", default=["none", "dots", "full"], help="policies")
    parser.add_argument("--groups", type=int, help=f"of {GROUP} layers (as many as fit)")
    parser.add_argument("--matmul_size", type=int, default=8192, help="(8192)")
    parser.add_argument("--set", metavar="NAME=VALUE,...", help="changes the model")
    Shape.add_options(
        parser,
        d_model=4096,
        num_heads=32,
        d_ff=16384,
        vocab_size=153_600,
        batch_size=8,
        source_length=1024,
        target_length=1024,
    )
    return parser


if __name__ == "__main__":
    # By default JAX takes three quarters of a GPU.
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its name of before
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    sys.exit(main())
