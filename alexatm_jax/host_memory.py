"""Keeps the memory that CPU computation frees, so that it need not be mapped again."""

from __future__ import annotations

import ctypes
import importlib.util
import os

# Parameters of glibc's mallopt(3), from <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step, where JAX computes on the CPU alone.

    XLA's CPU client takes a step's buffers from malloc and frees them after it. By default
    glibc returns them to the system, which hands them out page by page again: 30,000 page faults
    a step of the demo's model, and a third of its time.

    Call it before the first thread starts: threads that have an arena of their own keep it. It
    does nothing where an accelerator's plug-in is installed, or the C library is another.

    Returns:
      Whether memory will be kept.
    """
    plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    if plugins and os.environ.get("JAX_PLATFORMS") != "cpu":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _ARENA_MAX: 1,
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 64 * 2**20,
    }
    return all(mallopt(parameter, value) for parameter, value in settings.items())
