"""Shows what a cached mixture gives to training, on the terminal and as one HTML page.

python -m alexatm_jax.data.inspect CACHE_DIR MIXTURE --out=report.html
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from alexatm_jax.data.inspection import page as inspection_page
from alexatm_jax.data.inspection.figures import Inspection, inspect_mixture
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import ReaderConfig
from alexatm_jax.whole_files import write_whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspects one mixture, prints its figures and writes its page.

    Returns:
      The exit code: 0, or 2 if something is wrong with the input; then nothing was written.
    """
    options = _parser().parse_args(arguments)
    try:
        _check_can_write(options.out)
        inspection = _inspection(options)
        write_whole(options.out, inspection_page.page(inspection).encode())
    except (ValueError, OSError) as error:
        print(f"inspect: {error}", file=sys.stderr)
        return 2
    print(inspection_page.text(inspection))
    print(f"\nwritten: {options.out}")
    return 0


def _inspection(options: argparse.Namespace) -> Inspection:
    config = ReaderConfig(
        batch_size=options.batch_size,
        encoder_length=options.inputs,
        decoder_length=options.targets,
        seed=options.seed,
        num_streams=options.num_streams,
        packing=options.packing,
    )
    return inspect_mixture(
        options.cache_dir,
        options.mixture,
        config,
        num_batches=options.batches,
        num_examples=options.examples,
    )


def _check_can_write(path: Path) -> None:
    """Finds out before the reading, which may be long, and leaves no trace."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--out {path} needs the name of a file in a folder that exists.")
    draft = path.with_name(f".{path.name}.tmp")
    draft.touch()
    draft.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexatm_jax.data.inspect",
        description="Reads a mixture of a cache as training would and reports its shares, "
        "fill, lengths, speed and examples. Needs no TensorFlow. Exits with 2, having written "
        "nothing, if something is wrong with the input.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("cache_dir", metavar="CACHE_DIR", help="written by --run_mode=cache")
    parser.add_argument("mixture", metavar="MIXTURE", help="a mixture in it")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    parser.add_argument("--inputs", type=int, default=1024, help="encoder tokens of a row")
    parser.add_argument("--targets", type=int, default=1024, help="decoder tokens of a row")
    parser.add_argument(
        "--packing", choices=MODES, default="document_separator", help="how examples share rows"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="rows of a batch")
    parser.add_argument(
        "--num_streams", type=int, default=1, help="the run's, for the batches of the run"
    )
    parser.add_argument("--batches", type=int, default=50, help="batches to measure")
    parser.add_argument("--examples", type=int, default=2, help="examples to show of each task")
    parser.add_argument("--seed", type=int, default=0, help="of shuffling, noising and cutting")
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # that epochs begin anew is in the report
    sys.exit(main())
