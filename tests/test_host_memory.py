"""Freed memory is kept where JAX computes on the CPU, and only there."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from alexatm_jax.host_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not glibc")
def step():
    np.ones(4_000_000).sum()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        capture_output=True,
        text=True,
        check=False,
        env={"JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0"},
    )
    if "not glibc" in done.stderr:
        pytest.skip("mallopt is glibc's")
    return int(done.stdout)


def test_memory_once_freed_is_not_mapped_again():
    assert faults("keep") < faults("default") / 10


def test_an_accelerator_is_left_alone(monkeypatch):
    from alexatm_jax import host_memory

    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: object())
    assert not host_memory.keep_freed_memory()
