"""Multi-head attention over given keys and values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec

from alexatm_jax.model.attention_blocked import (
    ATTENDED,
    ProbabilityDropout,
    blocked_attention,
)
from alexatm_jax.model.attention_cudnn import cudnn_attention
from alexatm_jax.model.attention_reference import reference_attention
from alexatm_jax.model.attention_rule import Call, chosen
from alexatm_jax.model.attention_splash import splash_attention
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.layers import Projection
from alexatm_jax.model.masks import Explicit, Segments, Visible

KeysValues = tuple[Array, Array]
"""Keys and values, each [B, M, H, K]."""

HEADS = ("batch", "length", "heads", "kv")


def attend(
    q_BLHK: Array,
    k_BMHK: Array,
    v_BMHK: Array,
    visible: Visible,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """Computes softmax(Q K^T / sqrt(K)) V for every head.

    On a mesh each device computes its own rows and heads, as the logical axis rules split them.

    Args:
      q_BLHK, k_BMHK, v_BMHK: of one dtype.
      visible: which keys each query sees.
      dropout_rate, dropout_key: of probabilities; without a key none is dropped. Which are depends
        on the key and on where they stand, not on the implementation or the mesh.
      implementation: one of `config.ATTENTIONS`; `attention_rule` says who can what.

    Returns:
      [B, L, H, K], in the dtype of q. What a query gives that sees no key, nothing may read.

    Raises:
      ValueError: if shapes disagree, or the implementation asked for cannot serve the call.

    Source: arXiv:1706.03762, Sec. 3.2.1.
    """
    _check_shapes(q_BLHK, k_BMHK, v_BMHK, visible)
    if not dropout_rate:
        dropout_key = None
    name = chosen(_call(q_BLHK, k_BMHK, visible, dropout_rate, dropout_key), implementation)
    with jax.named_scope("attention"):
        q_BLHK = q_BLHK / math.sqrt(q_BLHK.shape[-1])
        if not isinstance(visible, Segments) or name == "reference":
            o_BLHK = reference_attention(q_BLHK, k_BMHK, v_BMHK, visible, dropout_rate, dropout_key)
            return checkpoint_name(o_BLHK, ATTENDED)
        dropout = None
        if dropout_key is not None:
            batch, _, heads, _ = q_BLHK.shape
            ids_BH = jnp.arange(batch * heads, dtype=jnp.uint32).reshape(batch, heads)
            dropout = ProbabilityDropout(dropout_key, ids_BH, dropout_rate)
        return _on_each_device(name, q_BLHK, k_BMHK, v_BMHK, visible, dropout)


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over H heads, with biases on all four projections.

    Keys and values come from outside, so that self-attention, cross-attention and cached
    decoding are the same call.

    Source: arXiv:1706.03762, Sec. 3.2.2; biases as in the published classes (recipe §1).
    """

    config: ModelConfig
    num_heads: int
    probability_dropout_rate: float
    output_scale: float

    def setup(self) -> None:
        cfg = self.config
        inner = (cfg.d_model, self.num_heads, cfg.d_model // self.num_heads)
        axes = ("embed", "heads", "kv")
        self.query = Projection(cfg, "BLD,DHK->BLHK", inner, axes)
        self.key = Projection(cfg, "BMD,DHK->BMHK", inner, axes)
        self.value = Projection(cfg, "BMD,DHK->BMHK", inner, axes)
        self.out = Projection(
            cfg, "BLHK,HKD->BLD", inner[1:] + inner[:1], axes[1:] + axes[:1], self.output_scale
        )

    def keys_values(self, x_BMD: Array) -> KeysValues:
        """Projects the attended positions: [B, M, D] -> two arrays [B, M, H, K]."""
        k_BMHK = nn.with_logical_constraint(self.key(x_BMD), HEADS)
        v_BMHK = nn.with_logical_constraint(self.value(x_BMD), HEADS)
        return k_BMHK, v_BMHK

    def __call__(self, x_BLD: Array, keys_values: KeysValues, visible: Visible) -> Array:
        """Attends from every position of x to the given keys and values.

        Args:
          x_BLD: [B, L, D].
          keys_values: from `keys_values`, possibly cached.
          visible: which of them each position sees. `ModelConfig.attention` is of segments: an
            explicit mask, of the few queries of decoding, takes what serves it.

        Returns:
          [B, L, D]. Dropout on the probabilities is on if a "dropout" rng is given.
        """
        q_BLHK = nn.with_logical_constraint(self.query(x_BLD), HEADS)
        drops = self.probability_dropout_rate > 0 and self.has_rng("dropout")
        o_BLHK = attend(
            q_BLHK,
            *keys_values,
            visible,
            dropout_rate=self.probability_dropout_rate,
            dropout_key=self.make_rng("dropout") if drops else None,
            implementation="auto" if isinstance(visible, Explicit) else self.config.attention,
        )
        return self.out(o_BLHK)


def _check_shapes(q_BLHK: Array, k_BMHK: Array, v_BMHK: Array, visible: Visible) -> None:
    (B, L, H, K), M = q_BLHK.shape, k_BMHK.shape[1]
    if k_BMHK.shape != (B, M, H, K) or v_BMHK.shape != (B, M, H, K):
        raise ValueError(
            f"queries {q_BLHK.shape}, keys {k_BMHK.shape} and values {v_BMHK.shape} arrived; "
            f"queries [B, L, H, K] need both others as [B, M, H, K], here {(B, M, H, K)}."
        )
    if isinstance(visible, Segments):
        queries, keys = visible.queries_BL.shape, visible.keys_BM.shape
        if queries != (B, L) or keys != (B, M):
            raise ValueError(
                f"segments of queries {queries} and keys {keys} arrived; these queries and keys "
                f"need {(B, L)} and {(B, M)}."
            )
        if L != M and (visible.causal or visible.branches_BM is not None):
            raise ValueError(
                f"{L} queries and {M} keys are to attend causally or in branches; that is for "
                "self-attention: give the same segments twice."
            )


def _call(q_BLHK: Array, k_BMHK: Array, visible: Visible, rate: float, key: Array | None) -> Call:
    batch, queries, heads, width = q_BLHK.shape
    spec = _split()
    return Call(
        platform=_platform(),
        batch=batch,
        queries=queries,
        keys=k_BMHK.shape[1],
        heads=heads,
        width=width,
        dtype=q_BLHK.dtype.name,
        explicit=isinstance(visible, Explicit),
        branches=isinstance(visible, Segments) and visible.branches_BM is not None,
        dropout_rate=rate if key is not None else 0.0,
        row_parts=_parts(spec[0]),
        head_parts=_parts(spec[2]),
    )


def _platform() -> str:
    """Names what is compiled for, which need not be here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def _split() -> PartitionSpec:
    """Says which mesh axes split [B, L, H, K] here, and are not split already.

    Rows and heads alone: a query needs all keys, and whole ones, wherever rules place L and K.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not nn.get_logical_axis_rules() or AxisType.Manual in mesh.axis_types or mesh.size <= 1:
        return PartitionSpec(*(None for _ in HEADS))
    axes = nn.logical_to_mesh_axes(HEADS)
    assert axes is not None
    return PartitionSpec(axes[0], None, axes[2], None)


def _parts(axes: str | tuple[str, ...] | None) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in names)


def _on_each_device(
    name: str,
    q_BLHK: Array,
    k_BMHK: Array,
    v_BMHK: Array,
    segments: Segments,
    dropout: ProbabilityDropout | None,
) -> Array:
    """Runs an implementation on the rows and heads of each device, which knows of no others."""

    def local(
        q_BLHK: Array,
        k_BMHK: Array,
        v_BMHK: Array,
        segments: Segments,
        dropout: ProbabilityDropout | None,
    ) -> Array:
        if name == "cudnn":
            return cudnn_attention(q_BLHK, k_BMHK, v_BMHK, segments)
        if name == "splash":
            return splash_attention(q_BLHK, k_BMHK, v_BMHK, segments)
        return blocked_attention(q_BLHK, k_BMHK, v_BMHK, segments, dropout, _platform())

    operands = (q_BLHK, k_BMHK, v_BMHK, segments, dropout)
    heads = _split()
    if not any(heads):
        return local(*operands)
    of_rows = jax.tree.map(lambda _: PartitionSpec(heads[0]), segments)
    of_key, of_ids = PartitionSpec(), PartitionSpec(heads[0], heads[2])
    of_dropout = jax.tree.map(lambda x: of_ids if x.ndim == 2 else of_key, dropout)
    specs = (heads, heads, heads, of_rows, of_dropout)
    return jax.shard_map(local, in_specs=specs, out_specs=heads, check_vma=False)(*operands)
