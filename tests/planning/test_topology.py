"""Topologies are read as written, and their devices can be compiled for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import topologies

from alexatm_jax.hardware import GPUS
from alexatm_jax.planning import topology
from alexatm_jax.planning.topology import make_devices, parse_topology

GIB = 2**30
MEMORY_FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
MAKE = """
import sys, jax
from alexatm_jax.planning.topology import make_devices, parse_topology
devices = make_devices(parse_topology(sys.argv[1]))
print(len(devices), devices[0].platform, len(jax.devices()))
"""


def made_in_a_process(text, tmp_path, **environment):
    return subprocess.run(
        [sys.executable, "-c", MAKE, text],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("text", "platform", "num_devices", "memory_gib", "peak_tflops"),
    [
        ("cpu:256", "cpu", 256, None, None),
        ("tpu:v4:4x4x8", "tpu", 128, 30.75, 275),
        ("tpu:v5p:4x4x8", "tpu", 128, 95.74, 459),
        ("tpu:v5e:16x16", "tpu", 256, 15.75, 197),
        ("tpu:v5litepod:4x8", "tpu", 32, 15.75, 197),
        ("tpu:v6e:16x16", "tpu", 256, 31.25, 918),
        ("gpu:a100-40gb:16", "gpu", 16, 30, 312),
        ("gpu:a100:16", "gpu", 16, 60, 312),
        ("gpu:h100:128", "gpu", 128, 59.73, 989),
        ("gpu:h200:8", "gpu", 8, 105.3, 989),
    ],
)
def test_known_machines(monkeypatch, text, platform, num_devices, memory_gib, peak_tflops):
    for name in MEMORY_FRACTION:
        monkeypatch.delenv(name, raising=False)
    found = parse_topology(text)
    assert (found.text, found.platform, found.num_devices) == (text, platform, num_devices)
    assert found.peak_flops == (peak_tflops and peak_tflops * 1e12)
    if memory_gib is None:
        assert found.memory_bytes is None
    else:
        assert found.memory_bytes / GIB == pytest.approx(memory_gib, rel=1e-3)


@pytest.mark.parametrize("name", MEMORY_FRACTION)
def test_gpu_memory_is_the_share_that_jax_takes(monkeypatch, name):
    monkeypatch.setenv(name, "0.95")
    assert parse_topology("gpu:a100:8").memory_bytes == int(0.95 * 80 * GIB)


@given(st.integers(1, 10**6))
def test_any_number_of_simulated_devices(count):
    assert parse_topology(f"cpu:{count}").num_devices == count


@pytest.mark.parametrize(
    "text",
    ["", "cpu", "cpu:0", "cpu:-1", "cpu:4x4", "tpu", "tpu:v4", "tpu:v4:128", "tpu:v3:4x4", "gpu:8"]
    + ["tpu:v4:0x4x4", "gpu:h100", "gpu:h100:2x4", "gpu:b300:8", "rocm:8", "tpu:v4:4x4x8x2"],
)
def test_unknown_machines_are_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match=r"cpu:N, tpu:v4:XxYxZ.*gpu:h200:N"):
        parse_topology(text)


@pytest.mark.parametrize("text", ["tpu:v4:4x4", "tpu:v5e:4x4x4", "tpu:v4:1x1x1", "tpu:v6e:3x4"])
def test_slices_of_no_whole_hosts_are_refused(text):
    with pytest.raises(ValueError, match="the first two even"):
        parse_topology(text)


def test_the_devices_that_are_here():
    present = parse_topology(None)
    assert (present.platform, present.num_devices) == ("present", jax.device_count())
    assert make_devices(present) == jax.devices()


def test_fewer_simulated_devices_than_there_are():
    assert make_devices(parse_topology("cpu:4")) == jax.devices("cpu")[:4]


def test_more_simulated_devices_than_jax_started_with():
    assert jax.device_count() < 1000
    with pytest.raises(ValueError, match="already started with"):
        make_devices(parse_topology("cpu:1000"))


def test_simulated_devices_whatever_xla_flags_say(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    done = made_in_a_process("cpu:256", tmp_path, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert done.stdout.split() == ["256", "cpu", "256"], done.stderr


def test_without_the_tpu_compiler_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'alexatm_jax\[plan-tpu\]'"):
        make_devices(parse_topology("tpu:v4:4x4x8"))


def test_without_the_gpu_compiler_the_cpus_stands_in(monkeypatch):
    monkeypatch.setattr(topology, "_has_gpu_compiler", lambda: False)
    asked = parse_topology("gpu:h200:8")
    assert "XLA:CPU standing in" in asked.compiler
    assert [device.platform for device in make_devices(asked)] == ["cpu"] * 8


@pytest.mark.parametrize("text", ["tpu:v4:4x4x8", "tpu:v5p:2x2x4", "tpu:v5e:4x8", "tpu:v6e:2x2"])
def test_tpu_devices_are_as_many_as_parsed(text):
    pytest.importorskip("libtpu")
    devices = make_devices(parse_topology(text))
    assert len(devices) == parse_topology(text).num_devices
    assert {device.platform for device in devices} == {"tpu"}


def test_slices_that_nobody_has_are_refused():
    with pytest.raises(ValueError, match="has 1024 chips; a slice of TPU v5e has at most 256"):
        parse_topology("tpu:v5e:32x32")


def test_what_a_compiler_refuses_names_the_topology(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("INVALID_ARGUMENT: no such chip\nand more")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")
    with pytest.raises(ValueError, match="compiler for tpu:v4:4x4x8 refuses it: .*no such chip;"):
        make_devices(parse_topology("tpu:v4:4x4x8"))


@pytest.mark.skipif(not topology._has_gpu_compiler(), reason="the extra gpu is not installed")
def test_gpu_devices_without_a_gpu(tmp_path):
    done = made_in_a_process("gpu:h100:16", tmp_path)
    assert done.stdout.split()[:2] == ["16", "gpu"], done.stderr


@pytest.mark.parametrize("kind", GPUS)
def test_gpus_are_described_to_their_compiler(kind):
    text = topology._gpu_target(kind)
    assert f"device_memory_size: {GPUS[kind].memory_bytes} " in text
    assert text.count("{") == text.count("}") == 2
