"""The machines that programs are compiled for: what each is, and JAX devices that stand for it.

    cpu:256         simulated devices of this machine's CPU
    tpu:v4:4x4x8    a slice of 128 chips, compiled by the TPU's compiler (extra `plan-tpu`)
    gpu:h200:8      compiled by the GPU's compiler where the extra `gpu` is installed; without it by
                    the CPU's, which stands in

None of them needs the machine itself.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Literal

import jax

from alexatm_jax.hardware import GPUS, TPUS, Chip, peak_flops

_ALIASES = {"v5litepod": "v5e", "v5": "v5p"}
_MEGACORE = ("v4", "v5p")
_MOST_CHIPS = {"v4": 4096, "v5p": 6144, "v5e": 256, "v6e": 256}
"""Of one slice; from the same pages. The compiler would take more."""

# What XLA:GPU asks of a device, from NVIDIA's tuning guides and white papers of Ampere and Hopper:
# cores, their arithmetic units, shared memory per core, clock (GHz), L2 (MiB), bandwidth (GB/s).
_GPU_CORES = {
    "a100-40gb": ("8", 108, 64, 164, 1.41, 40, 1555),
    "a100": ("8", 108, 64, 164, 1.41, 40, 2039),
    "h100": ("9", 132, 128, 228, 1.98, 50, 3352),
    "h200": ("9", 132, 128, 228, 1.98, 50, 4800),
}
GPUS_PER_HOST = 8

KNOWN = "cpu:N, tpu:v4:XxYxZ, tpu:v5p:XxYxZ, tpu:v5e:XxY, tpu:v6e:XxY, " + ", ".join(
    f"gpu:{name}:N" for name in GPUS
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine to plan for.

    Attributes:
      text: what was asked for, such as "tpu:v4:4x4x8"; "present" for the devices that are here.
      num_devices: as JAX counts them: chips, for TPUs.
      memory_bytes: of a device, as far as programs can use it; None where nothing bounds it.
      peak_flops, float32_flops: dense operations per second of a device on bfloat16 and on float32
        operands, see `hardware.Chip`; None if not known.
      compiler: what compiles, and how far its figures hold.
    """

    text: str
    platform: Literal["cpu", "tpu", "gpu", "present"]
    num_devices: int
    device_name: str
    memory_bytes: int | None
    peak_flops: float | None
    compiler: str
    float32_flops: float | None = None

    def peak(self, dtype: str) -> float | None:
        """Gives a device's FLOP/s for operands of "bfloat16" or "float32"; None if not known."""
        return self.peak_flops if dtype == "bfloat16" else self.float32_flops


def parse_topology(text: str | None) -> Topology:
    """Reads the text of `--topology`.

    Nothing is started, except for None, which asks JAX for the devices that are here.

    Raises:
      ValueError: saying what is known, if the text names no machine that is.
    """
    if text is None:
        return _present()
    platform, _, rest = text.partition(":")
    if platform == "cpu" and re.fullmatch(r"[1-9]\d*", rest):
        compiler = "XLA:CPU, simulated devices; temporaries and collectives are indicative"
        return Topology(text, "cpu", int(rest), "simulated CPU device", None, None, compiler)
    kind, _, size = rest.partition(":")
    if platform == "gpu" and kind in GPUS and re.fullmatch(r"[1-9]\d*", size):
        chip, compiler = GPUS[kind], _gpu_compiler()
        memory = int(chip.memory_bytes * _gpu_memory_fraction())
        return _of_chips(text, "gpu", int(size), chip, memory, compiler)
    kind = _ALIASES.get(kind, kind)
    if platform == "tpu" and kind in TPUS and (shape := _slice(text, kind, size)):
        chip, count, compiler = TPUS[kind], math.prod(shape), "XLA:TPU, without the TPU"
        return _of_chips(text, "tpu", count, chip, chip.memory_bytes, compiler)
    raise ValueError(
        f"--topology={text!r} names no known machine; write one of {KNOWN}, or leave it out for "
        "the devices that are here."
    )


def _of_chips(
    text: str,
    platform: Literal["tpu", "gpu"],
    count: int,
    chip: Chip,
    memory_bytes: int,
    compiler: str,
) -> Topology:
    peaks = chip.bfloat16_flops, chip.float32_flops
    return Topology(
        text, platform, count, chip.device_name, memory_bytes, peaks[0], compiler, peaks[1]
    )


def _slice(text: str, kind: str, size: str) -> tuple[int, ...] | None:
    """Reads the sides of a slice; None unless they are sides at all.

    Hosts hold 2 x 2 chips, and the compiler wants whole ones.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", size):
        return None
    shape = tuple(int(side) for side in size.split("x"))
    needed = 3 if kind in _MEGACORE else 2
    if len(shape) != needed or shape[0] % 2 or shape[1] % 2:
        example = "4x4x8" if needed == 3 else "16x16"
        raise ValueError(
            f"--topology={text!r} has the sides {size}; a slice of TPU {kind} has {needed}, the "
            f"first two even, for a host holds 2 x 2 chips: write, say, tpu:{kind}:{example}."
        )
    if (chips := math.prod(shape)) > _MOST_CHIPS[kind]:
        raise ValueError(
            f"--topology={text!r} has {chips} chips; a slice of TPU {kind} has at most "
            f"{_MOST_CHIPS[kind]}: choose a smaller one."
        )
    return shape


def check_slices(topology: Topology, num_slices: int) -> None:
    """Raises ValueError for several slices of TPUs that are not here."""
    if topology.platform == "tpu" and num_slices > 1:
        raise ValueError(
            f"Partitioning.num_slices is {num_slices} and --topology={topology.text!r} is one "
            "slice, as that of every plan for TPUs: plan one slice's share with num_slices = 1 and "
            f"the batch it computes, or all {num_slices * topology.num_devices} devices of "
            f"{num_slices} such slices with --topology=cpu:{num_slices * topology.num_devices}."
        )


def make_devices(topology: Topology) -> list[jax.Device]:
    """Gives the devices to build a mesh of, in the order in which meshes are best filled.

    Devices of machines that are not here can be compiled for and hold nothing. To be called before
    anything else makes JAX start a backend: simulated devices cannot be added later.

    Raises:
      ValueError: if JAX has started with another number of simulated devices, or what compiles for
        the platform is not installed or refuses the topology; the message says what to do.
    """
    if topology.platform == "present":
        return jax.devices()
    if topology.platform == "tpu":
        return _tpu_devices(topology)
    if topology.platform == "gpu" and _has_gpu_compiler():
        return _gpu_devices(topology)
    return _cpu_devices(topology)


def _cpu_devices(topology: Topology) -> list[jax.Device]:
    count = topology.num_devices
    try:
        # It wins over --xla_force_host_platform_device_count.
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # a backend has started: its devices must do
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"{topology.text} needs {count} simulated devices and JAX has already started with "
            f"{len(devices)}; plan in a process of its own, before anything else uses JAX."
        )
    return devices[:count]


def _tpu_devices(topology: Topology) -> list[jax.Device]:
    _, kind, size = topology.text.split(":")
    kind = _ALIASES.get(kind, kind)
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise ValueError(
            f"{topology.text} needs the TPU's compiler, which comes in the package libtpu and is "
            "not installed; run: pip install 'alexatm_jax[plan-tpu]' (no TPU is needed)."
        )
    # No TPU is to be looked for or locked, several plans may be made at once, and the compiler is
    # not to complain of a machine that it does not know: it is told which one is meant below.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
    core = "megacore" if kind in _MEGACORE else "default"
    return _described(topology, "tpu", f"{kind}:{size}", {"chip_config_name": core})


def _gpu_devices(topology: Topology) -> list[jax.Device]:
    _, kind, _ = topology.text.split(":")
    # The check wants a driver; compiling does not.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    hosts, rest = divmod(topology.num_devices, GPUS_PER_HOST)
    shape = f"1x{hosts}x{GPUS_PER_HOST}" if hosts and not rest else f"1x1x{topology.num_devices}"
    options = {"topology": shape, "target_config": _gpu_target(kind)}
    return _described(topology, "cuda", kind, options)


def _described(
    topology: Topology, platform: str, name: str, options: Mapping[str, str]
) -> list[jax.Device]:
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(name, platform, **options).devices)
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the compiler for {topology.text} refuses it: {str(error).splitlines()[0]}; choose "
            f"another --topology of {KNOWN}."
        ) from error


def _gpu_target(kind: str) -> str:
    """Describes a GPU to XLA, as the text of its `GpuTargetConfigProto`."""
    chip = GPUS[kind]
    generation, cores, units, shared_kib, clock, l2_mib, bandwidth = _GPU_CORES[kind]
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": (shared_kib - 1) * 2**10,
        "shared_memory_per_core": shared_kib * 2**10,
        "threads_per_core_limit": 2048,
        "core_count": cores,
        "fpus_per_core": units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "memory_bandwidth": bandwidth * 10**9,
        "l2_cache_size": l2_mib * 2**20,
        "clock_rate_ghz": clock,
        "device_memory_size": chip.memory_bytes,
    }
    fields = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {generation} }} }} "
        f'platform_name: "CUDA" device_description_str: "{chip.device_name}"'
    )


def _has_gpu_compiler() -> bool:
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    return any(
        importlib.util.find_spec(f"jax_plugins.xla_cuda{major}") is not None for major in (12, 13)
    )


def _gpu_compiler() -> str:
    if _has_gpu_compiler():
        return "XLA:GPU, without the GPU"
    return "XLA:CPU standing in for XLA:GPU; temporaries and collectives are indicative"


def _gpu_memory_fraction() -> float:
    """The share of a GPU's memory that JAX takes; its documentation, "GPU memory allocation"."""
    before = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
    return float(os.environ.get("XLA_CLIENT_MEM_FRACTION", before))


def _present() -> Topology:
    devices = jax.devices()
    first = devices[0]
    platform = first.platform.upper()
    return Topology(
        "present",
        "present",
        len(devices),
        first.device_kind,
        None if platform == "CPU" else (first.memory_stats() or {}).get("bytes_limit"),
        peak_flops(first, "bfloat16"),
        f"XLA:{platform}, {len(devices)} devices here",
        peak_flops(first, "float32"),
    )
