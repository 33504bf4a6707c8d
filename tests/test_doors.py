"""Imports go one way: see CONTRIBUTING.md, "Doors"."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alexatm_jax"
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio")
TASK_MODULES = sorted((PACKAGE / "data").glob("seqio_*.py"))
"""These register tasks, prompts included, so they follow the rule of tasks/: none."""
USE_TENSORFLOW = ("tasks", *(f"data.{path.stem}" for path in TASK_MODULES))
MAY_IMPORT = {
    "text": {"text"},
    "model": {"model"},
    "partitioning": {"partitioning"},
    "training": {"training", "model", "partitioning"},
    "decoding": {"decoding", "model", "partitioning"},
    "conversion": {"conversion", "model", "training", "data", "partitioning", "preflight"},
    "evaluation": {"evaluation", "text"},
    "data": {"data", "text"},
    "planning": {
        "planning",
        "model",
        "partitioning",
        "training",
        "decoding",
        "preflight",
    },
}
"""Besides what OPEN_TO_ALL names; everything else in the package is shut."""
OPEN_TO_ALL = {"batch", "cluster", "hardware", "hlo", "log_lines", "whole_files", "__version__"}

WITH_JAX = {"jax", "flax", "optax", "orbax-checkpoint", "numpy", "absl-py", "ml_dtypes"}
"""What `benchmarks.layers_of_20b` asks for, with what these need themselves."""

IMPORT_ALL = """
import importlib, pkgutil, sys
blocked, skipped = sys.argv[1].split(","), sys.argv[2].split(",")
sys.modules.update(dict.fromkeys(blocked))
import alexatm_jax
for module in pkgutil.walk_packages(alexatm_jax.__path__, "alexatm_jax."):
    if not any(f"{module.name}.".startswith(f"alexatm_jax.{name}.") for name in skipped):
        importlib.import_module(module.name)
        print(module.name)
"""


def imported_names(path: Path) -> set[str]:
    """Lists the dotted names that a file imports anywhere, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the package's full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported_names(path)]
    return {p[1] for p in parts if p[0] == "alexatm_jax" and len(p) > 1} - OPEN_TO_ALL


def roots_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(path)}


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(
    ("blocked", "skipped"),
    [
        # A machine without TensorFlow, and one where only the core is installed.
        (TENSORFLOW, USE_TENSORFLOW),
        (
            (*TENSORFLOW, "babel", "lm_eval"),
            (*USE_TENSORFLOW, "data.cldr", "data.cldr_phrases", "runs.lm_eval_model"),
        ),
    ],
)
def test_the_core_imports_without_the_data_extra(blocked, skipped, tmp_path):
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(blocked), ",".join(skipped)]
    # Beside a checkout called alexatm_jax, Python would take that folder for the package.
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    present = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("alexatm_jax")
    }
    left_out = {f"alexatm_jax.{name}" for name in skipped} | {"alexatm_jax"}
    assert set(done.stdout.split()) == present - left_out


def test_the_benchmark_of_20b_layers_needs_jax_and_its_libraries_alone():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    required = re.findall(r"^[\w-]+", settings["options"]["install_requires"], re.MULTILINE)
    assert set(required) > WITH_JAX
    foreign = set(required) - WITH_JAX
    blocked = [name.removesuffix("-config").replace("-", "_") for name in sorted(foreign)]
    assert all(importlib.util.find_spec(name) for name in blocked)
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))"
    code += "; import benchmarks.layers_of_20b"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_through_their_doors(room):
    files = python_files(f"alexatm_jax/{room}") or [PACKAGE / f"{room}.py"]
    for path in set(files) - set(TASK_MODULES):
        foreign = rooms_imported(path) - MAY_IMPORT[room]
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_tensorflow_has_two_homes():
    for path in set(python_files("alexatm_jax")) - set(TASK_MODULES):
        found = roots_imported(path) & {*TENSORFLOW}
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_published_weights_are_read_without_their_libraries():
    for path in python_files("alexatm_jax", "tasks"):
        found = roots_imported(path) & {"torch", "transformers", "safetensors"}
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_gin_stays_at_the_edge():
    edge = {PACKAGE / "main.py", PACKAGE / "gin_config.py"}
    for path in set(python_files("alexatm_jax", "tasks")) - edge:
        assert "gin" not in roots_imported(path), f"{path.relative_to(ROOT)} imports gin"


def test_no_file_is_longer_than_500_lines():
    gin_files = sorted((ROOT / "gin").rglob("*.gin"))
    for path in python_files("alexatm_jax", "tasks", "tests", "benchmarks") + gin_files:
        count = len(path.read_text(encoding="utf-8").splitlines())
        assert count <= 500, f"{path.relative_to(ROOT)} has {count} lines"


def test_the_gin_folder_does_not_shadow_the_library():
    assert not list((ROOT / "gin").rglob("__init__.py"))
