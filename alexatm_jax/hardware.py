"""What data sheets and compilers say of the devices that programs run on."""

from __future__ import annotations

import dataclasses

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device as JAX sees it.

    Attributes:
      memory_bytes: what programs can use. For TPUs, what the compiler of libtpu 0.0.42 says is
        available when a program is too large; for GPUs, what the driver reports in all.
      bfloat16_flops, float32_flops: dense operations per second of matrix products with operands
        of that type at JAX's default precision, from the data sheet. For float32 operands that
        is one bfloat16 pass on a TPU and TF32 on a GPU.
    """

    device_name: str
    memory_bytes: int
    bfloat16_flops: float
    float32_flops: float


# cloud.google.com/tpu/docs/v4, v5p, v5e, v6e: "peak compute per chip (bf16)". A v4 or v5p chip has
# two cores that act as one device ("megacore"); v5e and v6e chips have one core.
TPUS = {
    "v4": Chip("TPU v4", int(30.75 * GIB), 275e12, 275e12),
    "v5p": Chip("TPU v5p", int(95.74 * GIB), 459e12, 459e12),
    "v5e": Chip("TPU v5e", int(15.75 * GIB), 197e12, 197e12),
    "v6e": Chip("TPU v6e", int(31.25 * GIB), 918e12, 918e12),
}

# NVIDIA data sheets of the SXM modules: BFLOAT16 and TF32 tensor cores, without sparsity.
GPUS = {
    "a100-40gb": Chip("NVIDIA A100 40 GB", 40960 * 2**20, 312e12, 156e12),
    "a100": Chip("NVIDIA A100 80 GB", 81920 * 2**20, 312e12, 156e12),
    "h100": Chip("NVIDIA H100", 81559 * 2**20, 989e12, 494.5e12),
    "h200": Chip("NVIDIA H200", 143771 * 2**20, 989e12, 494.5e12),
}

_DEVICE_KINDS = {"TPU v5": "TPU v5p", "TPU v5 lite": "TPU v5e", "TPU v6 lite": "TPU v6e"}
"""How JAX calls what the tables call otherwise."""


def chip_of(device: jax.Device) -> Chip | None:
    """Finds what is known of a device; None for CPUs, and for what is not in the tables.

    GPUs go by their first two words, such as "NVIDIA H100": SXM and PCIe modules alike.
    """
    kind = _DEVICE_KINDS.get(device.device_kind, device.device_kind)
    for chip in (*TPUS.values(), *GPUS.values()):
        model = " ".join(chip.device_name.split()[:2])
        if kind == chip.device_name or (device.platform == "gpu" and kind.startswith(model)):
            return chip
    return None


def peak_flops(device: jax.Device, dtype: str) -> float | None:
    """Gives a device's peak in FLOP/s for products of "bfloat16" or "float32"; None if unknown."""
    chip = chip_of(device)
    if chip is None:
        return None
    return chip.bfloat16_flops if dtype == "bfloat16" else chip.float32_flops
