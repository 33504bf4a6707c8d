"""The one binary: reads gin, calls one function per run mode.

    alexatm --run_mode=train --gin_file=experiments/demo.gin --gin.TRAIN_STEPS=100

Flags and macro names are those that T5X's users know.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
from absl import app, flags

from alexatm_jax import gin_config
from alexatm_jax.preflight import Refusal, refusing

RUN_MODES = {
    "train": "alexatm_jax.runs.training.train",
    "eval": "alexatm_jax.runs.evaluating.evaluate",
    "infer": "alexatm_jax.runs.answering.infer",
    "cache": "alexatm_jax.runs.caching.build_cache",
    "interactive": "alexatm_jax.runs.answering.interactive",
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("run_mode", "train", sorted(RUN_MODES), "What to do.")
flags.DEFINE_multi_string(
    "gin_file", [], "Gin files, relative to a search path; later ones override earlier ones."
)
flags.DEFINE_multi_string(
    "gin_bindings", [], "NAME=VALUE overrides; --gin.NAME=VALUE is the short form."
)
flags.DEFINE_list(
    "gin_search_paths", [], "Folders to find gin files in, before those that come with alexatm."
)


def expand_gin_flags(argv: Sequence[str]) -> list[str]:
    """Turns T5X's `--gin.NAME=VALUE` into `--gin_bindings=NAME=VALUE`."""
    prefix = "--gin."
    return [
        "--gin_bindings=" + arg[len(prefix) :] if arg.startswith(prefix) else arg for arg in argv
    ]


def run(_: Sequence[str]) -> None:
    """Runs the mode that the flags ask for; a refusal exits with code 2."""
    try:
        with refusing():
            gin_config.load(
                FLAGS.gin_file,
                FLAGS.gin_bindings,
                gin_config.search_paths(FLAGS.gin_search_paths),
            )
            gin_config.check_complete()
            function, arguments = configured(FLAGS.run_mode)
        function(**arguments)
    except Refusal as refusal:
        print(f"alexatm: {refusal}", file=sys.stderr)
        sys.exit(2)


def configured(run_mode: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Finds the function of a run mode, and makes its arguments as gin binds them.

    Raises:
      ValueError: if gin binds none of its arguments, or too few, or a value is refused.
    """
    module, _, name = RUN_MODES[run_mode].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    try:
        arguments = gin.get_bindings(function)
        signature = inspect.signature(function)
        if "config_text" in signature.parameters:
            arguments["config_text"] = gin_config.operative_text()
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise gin_config.ConfigError(
            f"--run_mode={run_mode} calls {RUN_MODES[run_mode]}, which cannot be configured: "
            f"{error}; include the file of gin/runs/ for this mode, and one of gin/models/."
        ) from error
    return function, arguments


def main() -> None:
    """Entry point of the `alexatm` command."""
    # TensorFlow, which only the data side imports, says much that is no news.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("alexatm_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    app.run(run, argv=expand_gin_flags(sys.argv))


if __name__ == "__main__":
    main()
