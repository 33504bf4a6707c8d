"""Times greedy decoding beside the published class with its own cache: the same sizes, in turns.

python -m benchmarks.decode [--json] [--published_python PATH]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks import command, matmul, peers
from benchmarks.command import aligned, gibibytes, rate_over
from benchmarks.peers import Compared, Side
from benchmarks.shapes import Shape
from benchmarks.timing import machine, median_rate, ratio, tell

OURS = "ours"
FIRST = "{}, first token"
PRODUCTS = "products"

BY_SIDE = (
    "tokens_per_second",
    "seconds_per_batch",
    "first_token_seconds",
    "seconds_per_token",
    "rounds",
    "ratios",
    "ratios_of_first_token",
    "peak_bytes",
    "versions",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `command.run`."""
    return command.run(arguments, _parser(), measure, table)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times ours and the published class in turns, at each batch size.

    A measurement answers `--steps` batches from their tokens to the last new one, the encoder's
    pass included; no answer ends early. Answers of a single token are timed, too: what is left of
    the others, divided by their further tokens, is the time of a step. Beside it stands that of
    the decoder's matrix products alone, which no decoder in these libraries can go below.

    Returns:
      What --json prints, by side, such as "ours, batch 8": "tokens_per_second" (new ones),
      "seconds_per_batch", "first_token_seconds", "seconds_per_token" (of the batch, after the
      first), "rounds", "peak_bytes", "versions" and, by peer, "ratios" and
      "ratios_of_first_token"; by batch, "products_seconds_per_token"; "left_out" with what is
      needed; "shape", "steps", "machine".
    """
    shape = Shape.of_options(options)
    if shape.target_length < 2:
        raise ValueError(f"--target_length is {shape.target_length}; give 2 new tokens or more.")
    result: dict[str, Any] = {name: {} for name in BY_SIDE}
    result["products_seconds_per_token"] = {}
    for rows in options.batch_sizes:
        sized = replace(shape, batch_size=rows)
        sides, left_out = _sides(sized, options)
        compared = peers.compare(sides, options.rounds, tell)
        for name in sides:
            if FIRST.format(name) in sides:
                _add_side(result, name, sized, compared)
        per_token = rows / median_rate(compared.timings[PRODUCTS])
        result["products_seconds_per_token"][f"batch {rows}"] = per_token
    return result | {
        "benchmark": "decode",
        "left_out": left_out,
        "shape": asdict(shape),
        "steps": options.steps,
        "machine": machine(),
    }


def _sides(shape: Shape, options: argparse.Namespace) -> tuple[dict[str, Side], dict[str, str]]:
    """Gives ours, the peers, each of them again for a single token, and the products."""
    sides: dict[str, Side] = {}
    for length in (shape.target_length, 1):
        sized = replace(shape, target_length=length)
        told = {"task": "decode", "shape": asdict(sized), "steps": options.steps, "changes": {}}
        theirs, left_out = peers.sides_of_peers("decode", sized, options.steps, options)
        for name, side in ({OURS: Side("own_model", told)} | theirs).items():
            sides[FIRST.format(name) if length == 1 else name] = side
    products: dict[str, Any] = {"products": matmul.decoding_products(shape), "dtype": "float32"}
    products |= {"steps": options.steps, "repeats": shape.target_length}
    return sides | {PRODUCTS: Side("matmul", products)}, left_out


def _add_side(result: dict[str, Any], name: str, shape: Shape, compared: Compared) -> None:
    """Adds the figures of one side at one batch size."""
    side, first = f"{name}, batch {shape.batch_size}", FIRST.format(name)
    timings, first_timings = compared.timings[name], compared.timings[first]
    batch_seconds = shape.batch_size * shape.target_length / median_rate(timings)
    first_seconds = shape.batch_size / median_rate(first_timings)
    result["tokens_per_second"][side] = median_rate(timings)
    result["seconds_per_batch"][side] = batch_seconds
    result["first_token_seconds"][side] = first_seconds
    further = shape.target_length - 1
    result["seconds_per_token"][side] = (batch_seconds - first_seconds) / further
    result["rounds"][side] = [one.per_second for one in timings]
    result["peak_bytes"][side] = compared.peak_bytes[name]
    result["versions"][side] = compared.versions[name]
    if name != OURS:
        ours = compared.timings[OURS], compared.timings[FIRST.format(OURS)]
        result["ratios"][side] = ratio(ours[0], timings)
        result["ratios_of_first_token"][side] = ratio(ours[1], first_timings)


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    rows = {
        side: [
            f"{rate:,.1f}",
            f"{result['seconds_per_batch'][side]:.3f}",
            f"{result['first_token_seconds'][side]:.3f}",
            f"{result['seconds_per_token'][side] * 1e3:.2f}",
            gibibytes(result["peak_bytes"][side]),
            rate_over(result["ratios"].get(side)),
        ]
        for side, rate in result["tokens_per_second"].items()
    }
    for batch, seconds in result["products_seconds_per_token"].items():
        rows[f"products alone, {batch}"] = ["", "", "", f"{seconds * 1e3:.2f}"]
    columns = ("new tokens/s", "s/batch", "s to first", "ms a token", "peak GiB", "ours over it")
    lines = aligned(columns, rows)
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
    parser = command.parser("decode", __doc__)
    parser.add_argument("--steps", type=int, default=2, help="batches of a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="(1 8)")
    peers.add_options(parser)
    Shape.add_options(parser, source_length=256, target_length=64)
    return parser


if __name__ == "__main__":
    sys.exit(main())
