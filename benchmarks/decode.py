"""Times greedy decoding beside the published class with its own cache: the same sizes, in turns.

python -m benchmarks.decode [--json] [--published_python PATH]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks import peers
from benchmarks.peers import Side
from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, machine, median_rate, ratio, tell

OURS = "ours"

BY_SIDE = (
    "tokens_per_second",
    "seconds_per_batch",
    "rounds",
    "ratios",
    "peak_bytes",
    "versions",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table and, if asked, one JSON object on the last line.

    Returns:
      The exit code: 0, or 2 if something is wrong with the input.
    """
    options = _parser().parse_args(arguments)
    try:
        result = measure(options)
    except (BenchmarkError, ValueError, OSError) as error:
        print(f"benchmarks.decode: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if options.json:
        print(json.dumps(result))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times ours and the published class in turns, at each batch size.

    A measurement answers `--steps` batches from their tokens to the last new one, the encoder's
    pass included; no answer ends early.

    Returns:
      What --json prints, by side, such as "ours, batch 8": "tokens_per_second" (new ones),
      "seconds_per_batch", "rounds", "peak_bytes", "versions" and, by peer, "ratios"; "left_out"
      with what is needed; "shape", "steps", "machine".
    """
    shape = Shape.of_options(options)
    result: dict[str, Any] = {name: {} for name in BY_SIDE}
    for rows in options.batch_sizes:
        sized = replace(shape, batch_size=rows)
        told = {"task": "decode", "shape": asdict(sized), "steps": options.steps, "changes": {}}
        theirs, left_out = peers.sides_of_peers("decode", sized, options.steps, options)
        compared = peers.compare({OURS: Side("own_model", told)} | theirs, options.rounds, tell)
        for name, timings in compared.timings.items():
            side, rate = f"{name}, batch {rows}", median_rate(timings)
            result["tokens_per_second"][side] = rate
            result["seconds_per_batch"][side] = rows * shape.target_length / rate
            result["rounds"][side] = [one.per_second for one in timings]
            result["peak_bytes"][side] = compared.peak_bytes[name]
            result["versions"][side] = compared.versions[name]
            if name != OURS:
                result["ratios"][side] = ratio(compared.timings[OURS], timings)
    return result | {
        "benchmark": "decode",
        "left_out": left_out,
        "shape": asdict(shape),
        "steps": options.steps,
        "machine": machine(),
    }


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    columns = ("new tokens/s", "s/batch", "peak GiB", "ours over it")
    lines = [f"{'':<32}" + "".join(f"{name:>14}" for name in columns)]
    for side, rate in result["tokens_per_second"].items():
        peak, times = result["peak_bytes"][side], result["ratios"].get(side)
        figures = [
            f"{rate:,.1f}",
            f"{result['seconds_per_batch'][side]:.3f}",
            "?" if peak is None else f"{peak / 2**30:.2f}",
            "" if times is None else f"{times:.2f}",
        ]
        lines.append(f"{side:<32}" + "".join(f"{figure:>14}" for figure in figures))
    lines += [f"{name}: left out; {reason}." for name, reason in result["left_out"].items()]
    shape, rounds = result["shape"], len(next(iter(result["rounds"].values())))
    lines.append(
        f"Medians of {rounds} rounds in turns, {result['steps']} batches each. Prompts of "
        f"{shape['source_length']} tokens, {shape['target_length']} new ones, encoding included; "
        f"d_model {shape['d_model']}, {shape['encoder_layers']} + {shape['decoder_layers']} "
        f"layers, vocabulary {shape['vocab_size']:,}, float32. {result['machine']['cores']} cores."
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--steps", type=int, default=2, help="batches of a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="(1 8)")
    peers.add_options(parser)
    Shape.add_options(parser, source_length=256, target_length=64)
    return parser


if __name__ == "__main__":
    sys.exit(main())
