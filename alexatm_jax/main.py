"""The one binary: reads gin, calls one function per run mode.

    alexatm --run_mode=train --gin_file=experiments/demo.gin --gin.MODEL_DIR=runs/mine

Flags and macro names are those that T5X's users know.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from absl import app, flags
from absl import logging as absl_logging

from alexatm_jax import cluster, gin_config
from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.host_memory import keep_freed_memory
from alexatm_jax.log_lines import mark_log_lines, print_log_lines
from alexatm_jax.preflight import Refusal, check_types, refusing

RUN_MODES = {
    "train": "alexatm_jax.runs.training.train",
    "eval": "alexatm_jax.runs.evaluating.evaluate",
    "infer": "alexatm_jax.runs.answering.infer",
    "cache": "alexatm_jax.runs.caching.build_cache",
    "interactive": "alexatm_jax.runs.answering.interactive",
    "plan": "alexatm_jax.runs.planning.plan",
    "harness": "alexatm_jax.runs.harness.harness",
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("run_mode", "train", sorted(RUN_MODES), "What to do.")
flags.DEFINE_string(
    "topology", None, "The machine to plan for, such as cpu:256 or tpu:v4:4x4x8; else this one."
)
flags.DEFINE_multi_string(
    "gin_file", [], "Gin files, relative to a search path; later ones override earlier ones."
)
flags.DEFINE_multi_string(
    "gin_bindings", [], "NAME=VALUE overrides; --gin.NAME=VALUE is the short form."
)
flags.DEFINE_list(
    "gin_search_paths", [], "Folders to find gin files in, before those that come with alexatm."
)
flags.DEFINE_enum(
    "cluster", "auto", cluster.CLUSTERS, "Where a process of several finds its place among them."
)
flags.DEFINE_string("coordinator_address", None, "HOST:PORT at which process 0 can be reached.")
flags.DEFINE_integer("num_processes", None, "How many processes train together.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
flags.DEFINE_integer("start_timeout", 300, "How long they wait for each other, seconds.", 1)


def expand_gin_flags(argv: Sequence[str]) -> list[str]:
    """Turns T5X's `--gin.NAME=VALUE` into `--gin_bindings=NAME=VALUE`."""
    prefix = "--gin."
    return [
        "--gin_bindings=" + arg[len(prefix) :] if arg.startswith(prefix) else arg for arg in argv
    ]


def run(_: Sequence[str]) -> None:
    """Runs the mode that the flags ask for.

    What would end alike if started again exits with code 2: a refusal, a loss that is no number, or
    the end of all text, for a run repeats itself from its last checkpoint.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        start_together(FLAGS.run_mode)
        execute(
            FLAGS.run_mode,
            FLAGS.gin_file,
            FLAGS.gin_bindings,
            FLAGS.gin_search_paths,
            FLAGS.topology,
        )
    except cluster.Absence as absence:
        print(f"alexatm: {absence}", file=sys.stderr)
        sys.exit(1)
    except Refusal as refusal:
        print(f"alexatm: {refusal}", file=sys.stderr)
        cluster.abandon(2, str(refusal))
        sys.exit(2)
    except (FloatingPointError, NoMoreBatches) as end:
        # It comes to all processes at one step; none ends another, which may still write.
        print(f"alexatm: {end}", file=sys.stderr)
        sys.exit(2)
    except (Exception, KeyboardInterrupt) as error:
        cluster.abandon(1, f"{type(error).__name__}: {error}")
        raise


def start_together(run_mode: str) -> None:
    """Joins the processes of this run, if there are several, as the flags say."""
    given = cluster.Given(FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    with refusing():
        place = cluster.find_place(FLAGS.cluster, given, FLAGS.start_timeout)
        if place is None:
            return
        if run_mode != "train":  # without waiting for the others, whom nobody may have started
            raise cluster.ClusterError(
                f"--run_mode={run_mode} runs in one process, and this would be one of "
                f"{place.num_processes}; start one, with --cluster=none."
            )
        cluster.start(place, FLAGS.start_timeout)
    mark_log_lines(place.process_id)


def execute(
    run_mode: str,
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search: Sequence[str] = (),
    topology: str | None = None,
) -> None:
    """Reads the configuration, then runs one mode; the arguments are the flags of those names.

    Raises:
      Refusal: if something about the input is wrong; nothing was compiled or overwritten.
    """
    with refusing():
        if topology is not None and run_mode != "plan":
            raise gin_config.ConfigError(
                f"--topology={topology} was given with --run_mode={run_mode}, which runs on the "
                "devices present; leave it out, or give --run_mode=plan."
            )
        if not gin_files:
            raise gin_config.ConfigError(
                "no --gin_file was given; name one or more, such as "
                "--gin_file=experiments/demo.gin, or a runs/*.gin and a models/*.gin."
            )
        gin_config.load(gin_files, bindings, gin_config.search_paths(search))
        gin_config.check_complete(_function_of(run_mode))
        function, arguments = configured(run_mode)
        cluster.check_configuration(gin_config.operative_text())
        cluster.check_devices()
    if topology is not None:
        arguments["topology"] = topology
    function(**arguments)


def _function_of(run_mode: str) -> Callable[..., Any]:
    module, _, name = RUN_MODES[run_mode].rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def configured(run_mode: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Finds the function of a run mode, and makes its arguments as gin binds them.

    Raises:
      ValueError: if gin binds none of its arguments, or too few, or a value is refused, or of
        another type than the parameter's.
    """
    function = _function_of(run_mode)
    try:
        bound = gin.get_bindings(function, resolve_references=False)
    except ValueError:  # gin knows only functions that some file mentions
        bound = {}
    signature = inspect.signature(function)
    if missing := _missing(signature, bound):
        raise gin_config.ConfigError(
            f"--run_mode={run_mode} calls {RUN_MODES[run_mode]}, and no gin file binds its "
            f"{', '.join(missing)}; add the --gin_file of gin/runs/ that is for this mode."
        )
    _check_bound_types(function)
    try:
        arguments = gin.get_bindings(function)
    except TypeError as error:
        raise gin_config.ConfigError(
            f"gin cannot make the arguments of {RUN_MODES[run_mode]}: {error}. Bind what is "
            "missing, or include the file that does: ModelConfig is in those of gin/models/."
        ) from error
    if "config_text" in signature.parameters:
        arguments["config_text"] = gin_config.operative_text()
    return function, arguments


def _check_bound_types(function: Any) -> None:
    """Checks what gin binds to a function, and to all that it refers to, before it is made."""
    literals: dict[str, Any] = {}
    for name, value in gin.get_bindings(function, resolve_references=False).items():
        if not isinstance(value, gin.config.ConfigurableReference):
            literals[name] = value
        elif value.selector.endswith("macro"):
            literals[name] = value.scoped_configurable_fn()
        else:
            _check_bound_types(value.configurable.wrapped)
    check_types(function.__name__, typing.get_type_hints(function), literals)


def _missing(signature: inspect.Signature, bound: Mapping[str, Any]) -> list[str]:
    required = (p.name for p in signature.parameters.values() if p.default is p.empty)
    return [name for name in required if name not in bound]


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; a mistake in it exits with code 2, as every refusal."""
    try:
        return list(FLAGS(expand_gin_flags(argv)))
    except flags.Error as error:
        print(f"alexatm: {error} (alexatm --help lists the flags).", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Entry point of the `alexatm` command."""
    keep_freed_memory()
    print_log_lines()
    for flag in FLAGS.get_flags_for_module(__name__):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # what --help lists
    app.run(run, flags_parser=parse_flags)


if __name__ == "__main__":
    main()
