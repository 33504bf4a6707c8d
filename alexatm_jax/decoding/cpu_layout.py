"""Weights as XLA's CPU backend reads them fastest, for a loop that reads all at every token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array

from alexatm_jax.model.transformer import Transformer


def unrolled(model: Transformer, params: Any) -> tuple[Transformer, Any]:
    """Gives the model with unrolled layers, and parameters that its decoder's methods take.

    A layer's weights are copied out of the stacked ones before each use, which took as long as
    using them. This copies them once; the decoder's weights are then there twice.

    Returns:
      The same model and parameters if its layers are unrolled already.
    """
    if not model.config.scan_layers:
        return model, params
    decoder = dict(params["decoder"])
    stacked = decoder.pop("layers")
    for layer in range(model.config.num_decoder_layers):
        decoder[f"layer_{layer}"] = jax.tree.map(lambda leaf, at=layer: leaf[at], stacked)
    config = dataclasses.replace(model.config, scan_layers=False, scan_unroll=1)
    return model.clone(config=config), {**params, "decoder": decoder}


def transposed(table_VD: Array) -> Array:
    """Gives the LM head as [D, V]: with it, 8 rows of logits take half of the time."""
    table_DV: Array = jax.lax.optimization_barrier(table_VD.T)
    return table_DV


def on_cpu(params: Any) -> bool:
    """Says whether parameters live on CPUs; NumPy arrays go to the default device."""
    leaf = jax.tree.leaves(params)[0]
    devices = leaf.devices() if isinstance(leaf, jax.Array) else jax.local_devices()[:1]
    return next(iter(devices)).platform == "cpu"
