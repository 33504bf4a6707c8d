"""Devices are known by the names that JAX gives them."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from alexatm_jax.hardware import chip_of, peak_flops


@pytest.mark.parametrize(
    ("platform", "kind", "bfloat16", "float32"),
    [
        ("tpu", "TPU v4", 275e12, 275e12),
        ("tpu", "TPU v5", 459e12, 459e12),
        ("tpu", "TPU v5 lite", 197e12, 197e12),
        ("tpu", "TPU v6 lite", 918e12, 918e12),
        ("gpu", "NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("gpu", "NVIDIA H100 80GB HBM3", 989e12, 494.5e12),
        ("gpu", "NVIDIA H200", 989e12, 494.5e12),
        ("gpu", "NVIDIA GeForce RTX 4090", None, None),
        ("tpu", "TPU v2", None, None),
    ],
)
def test_peaks_are_those_of_the_data_sheet(platform, kind, bfloat16, float32):
    device = SimpleNamespace(platform=platform, device_kind=kind)
    assert (peak_flops(device, "bfloat16"), peak_flops(device, "float32")) == (bfloat16, float32)


def test_nothing_is_known_of_a_cpu():
    device = jax.devices("cpu")[0]
    assert chip_of(device) is peak_flops(device, "float32") is None
