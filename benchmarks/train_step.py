"""Times the training step beside PyTorch's and T5X's: the same sizes, in turns.

python -m benchmarks.train_step [--json] [--published_python PATH] [--bart_python PATH] [--t5x PATH]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import command, matmul, peers
from benchmarks.command import aligned, gibibytes, rate_over
from benchmarks.own_model import profile, step_flops, variant
from benchmarks.peers import Side
from benchmarks.shapes import Shape
from benchmarks.timing import machine, median_rate, ratio, tell

OURS = "ours"
MATMUL = "matmul 4096"
PRODUCTS = (MATMUL, "matmul, a layer's", "matmul, the head's")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `command.run`."""
    return command.run(arguments, _parser(), measure, table, _profile)


def _profile(options: argparse.Namespace) -> str:
    if not options.profile:
        return ""
    return profile(Shape.of_options(options), variant(options.set), options.steps)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times our step, its variants, the peers and plain matrix products in turns.

    Returns:
      What --json prints, by side: "tokens_per_second", "seconds_per_step", "rounds" (each round's
      tokens per second), "peak_bytes", "model_flops" of a step, "flops_per_second",
      "matmul_share" and "ratios", ours over it; "matmul_flops_per_second"; "left_out" with what is
      needed; "shape", "steps", "versions", "machine".
    """
    shape = Shape.of_options(options)
    theirs, left_out = peers.sides_of_peers("train", shape, options.steps, options)
    own = _own_sides(shape, options)
    compared = peers.compare(own | theirs | _products(shape), options.rounds, tell)
    timings = compared.timings
    steps = {name: timings[name] for name in own | theirs}
    flops = {name: step_flops(shape, own[name].settings["changes"]) for name in own}
    flops |= dict.fromkeys(theirs, step_flops(shape, {}))
    rates = {name: median_rate(found) for name, found in steps.items()}
    achieved = {name: rate * flops[name] / shape.tokens for name, rate in rates.items()}
    matmul_rate = median_rate(timings[MATMUL])
    return {
        "benchmark": "train_step",
        "tokens_per_second": rates,
        "seconds_per_step": {name: shape.tokens / rate for name, rate in rates.items()},
        "rounds": {name: [one.per_second for one in found] for name, found in steps.items()},
        "ratios": {name: ratio(timings[OURS], timings[name]) for name in steps if name != OURS},
        "peak_bytes": {name: compared.peak_bytes[name] for name in steps},
        "model_flops": flops,
        "flops_per_second": achieved,
        "matmul_share": {name: rate / matmul_rate for name, rate in achieved.items()},
        "matmul_flops_per_second": {name: median_rate(timings[name]) for name in PRODUCTS},
        "left_out": left_out,
        "shape": asdict(shape),
        "steps": options.steps,
        "versions": compared.versions,
        "machine": machine(),
    }


def _own_sides(shape: Shape, options: argparse.Namespace) -> dict[str, Side]:
    sides = {}
    for text in (None, *options.variant):
        changes = variant(options.set) | variant(text)
        step_flops(shape, changes)  # refuses what is wrong before a worker starts
        name = OURS if text is None else f"{OURS}, {text}"
        told = {"task": "train", "shape": asdict(shape), "steps": options.steps}
        sides[name] = Side("own_model", told | {"changes": changes})
    return sides


def _products(shape: Shape) -> dict[str, Side]:
    groups = ([matmul.SQUARE], matmul.layer_products(shape), matmul.head_products(shape))
    return {
        name: Side("matmul", {"products": products, "dtype": "float32", "steps": 1})
        for name, products in zip(PRODUCTS, groups, strict=True)
    }


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    rows = {
        name: [
            f"{rate:,.0f}",
            f"{result['seconds_per_step'][name]:.2f}",
            f"{result['flops_per_second'][name] / 1e9:,.0f}",
            f"{result['matmul_share'][name]:.0%}",
            gibibytes(result["peak_bytes"][name]),
            rate_over(result["ratios"].get(name)),
        ]
        for name, rate in result["tokens_per_second"].items()
    }
    for name, rate in result["matmul_flops_per_second"].items():
        rows[name] = ["", "", f"{rate / 1e9:,.0f}"]
    columns = ("tokens/s", "s/step", "GFLOP/s", "of matmul", "peak GiB", "ours over it")
    lines = aligned(columns, rows)
    lines += [f"{name}: left out; {reason}." for name, reason in result["left_out"].items()]
    shape, rounds = result["shape"], len(result["rounds"][OURS])
    lines.append(
        f"Medians of {rounds} rounds in turns, {result['steps']} steps each. d_model "
        f"{shape['d_model']}, {shape['encoder_layers']} + {shape['decoder_layers']} layers, "
        f"vocabulary {shape['vocab_size']:,}, {shape['batch_size']} x ({shape['source_length']} + "
        f"{shape['target_length']}) tokens, dropout {shape['dropout_rate']}, float32; "
        f"{result['model_flops'][OURS] / 1e9:,.0f} GFLOP a step. "
        f"{result['machine']['cores']} cores."
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("train_step", __doc__)
    parser.add_argument("--profile", action="store_true", help="say where our step's time goes")
    parser.add_argument("--steps", type=int, default=2, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--set", metavar="NAME=VALUE,...", help="changes our side")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="our step once more, with fields of ModelConfig or TrainingConfig changed, or "
        "frozen=encoder; repeat it",
    )
    peers.add_options(parser)
    Shape.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
