"""What is installed: exact versions of everything, and no TensorFlow in the core."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_BY_MAKE = ("data", "notebooks", "dev")


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def reached_from(requirements: list[str]) -> set[str]:
    """Follows the requirements of installed packages; gives every name on the way."""
    waiting = [(Requirement(line), "") for line in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, wanted))
            own = metadata.requires(name) or []
            waiting += [(Requirement(line), wanted) for line in own]
    return {name for name, _ in seen}


def test_the_core_brings_no_tensorflow(setup_cfg):
    core = reached_from(lines(setup_cfg["options"]["install_requires"]))
    assert "jax" in core
    assert not core & {"tensorflow", "tensorflow-datasets", "tensorflow-text"}
    assert not core & {"seqio", "clu"}


def test_all_that_make_installs_has_an_exact_version(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    asked = lines(setup_cfg["options"]["install_requires"])
    for extra in INSTALLED_BY_MAKE:
        asked += lines(extras[extra])
    pins = [Requirement(line) for line in lines((ROOT / "constraints.txt").read_text())]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    pinned = {canonicalize_name(pin.name) for pin in pins}
    assert reached_from(asked) - pinned == set()
    for pin in pins:
        for requirement in map(Requirement, asked):
            if canonicalize_name(requirement.name) == canonicalize_name(pin.name):
                assert requirement.specifier.contains(str(pin.specifier)[2:])


def test_every_package_is_listed_and_installed_inside_ours(setup_cfg):
    listed = set(lines(setup_cfg["options"]["packages"]))
    inside = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "alexatm_jax").rglob("__init__.py")
    }
    assert listed == inside | {"alexatm_jax.gin", "alexatm_jax.tasks"}


@pytest.fixture
def make(tmp_path):
    """Runs make on a copy of what the installation depends on, with its own PATH."""
    if not (program := shutil.which("make")):
        pytest.skip("make is not installed")
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "bin"
    path.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env={"PATH": str(path)},
            capture_output=True,
            text=True,
        )

    return run


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_make_takes_the_first_python_that_runs(make, tmp_path):
    executable(tmp_path / "bin" / "python3.12", "exit 127")
    executable(tmp_path / "bin" / "python3.11", f'exec "{sys.executable}" "$@"')
    assert "python3.11 -m venv" in make("-n", "lint").stdout


def test_make_without_a_python_says_so(make, tmp_path):
    done = make("lint")
    assert done.returncode != 0
    assert "no Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_interrupted_installation_starts_over(make, tmp_path):
    executable(tmp_path / "bin" / "python3.12", f'"{shutil.which("mkdir")}" -p .venv/bin')
    assert make(".venv/installed").returncode != 0
    assert (tmp_path / ".venv" / "bin").is_dir()
    assert "-m venv" in make("-n", "lint").stdout


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().strip().endswith("make test")
