"""Which implementation of attention serves which call."""

from __future__ import annotations

import dataclasses
import functools
import logging

from alexatm_jax.model.attention_blocked import tile_scores
from alexatm_jax.model.attention_splash import LANES
from alexatm_jax.model.config import ATTENTIONS

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Call:
    """What is asked of attention; shapes are of the whole batch.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      batch, queries, keys, heads, width: B, L, M, H, K.
      dtype: of q, k and v.
      explicit, branches: whether a mask was given, and segments with branches.
      dropout_rate: of probabilities.
      row_parts, head_parts: of B and H, over the mesh.
    """

    platform: str
    batch: int
    queries: int
    keys: int
    heads: int
    width: int
    dtype: str
    explicit: bool
    branches: bool
    dropout_rate: float
    row_parts: int
    head_parts: int


@dataclasses.dataclass(frozen=True)
class Implementation:
    """What one implementation can do. All have gradients, and take causal and cross-attention.

    Attributes:
      platforms: where it runs.
      dtypes: of q, k and v; None for all.
      dropout, explicit, branches: whether it takes them.
      undivided: whether it also takes rows and heads that the mesh does not divide.
      length_multiple, width_multiple, most_width: of L and M, and of K.
    """

    platforms: tuple[str, ...]
    dtypes: tuple[str, ...] | None = None
    dropout: bool = False
    explicit: bool = False
    branches: bool = False
    undivided: bool = False
    length_multiple: int = 1
    width_multiple: int = 1
    most_width: int = 2**16

    def refusal(self, call: Call) -> str | None:
        """Says what keeps this from serving a call, and what would help; None if nothing does."""
        lengths, width = (call.queries, call.keys), call.width
        undivided = call.batch % call.row_parts or call.heads % call.head_parts
        if call.platform not in self.platforms:
            return f"runs on {' and '.join(self.platforms)}, not on {call.platform}"
        if call.explicit and not self.explicit:
            return "takes segments, not an explicit mask"
        if call.branches and not self.branches:
            return "knows no branches of segments"
        if call.dropout_rate and not self.dropout:
            return (
                f"drops no probabilities, and their dropout rate is {call.dropout_rate} (0 in "
                "ModelConfig.encoder_attention_dropout_rate and decoder_attention_dropout_rate "
                "avoids this)"
            )
        if self.dtypes and call.dtype not in self.dtypes:
            return f"computes in {' or '.join(self.dtypes)}, not in {call.dtype}"
        if any(n % self.length_multiple for n in lengths):
            return f"takes lengths that are multiples of {self.length_multiple}, not {lengths}"
        if width % self.width_multiple or width > self.most_width:
            return (
                f"takes heads of a multiple of {self.width_multiple} up to {self.most_width}, "
                f"not of {width}"
            )
        if undivided and not self.undivided:
            return (
                f"needs {call.batch} rows and {call.heads} heads to divide over the mesh's "
                f"{call.row_parts} and {call.head_parts} parts"
            )
        return None


EVERYWHERE = ("cpu", "gpu", "tpu")

IMPLEMENTATIONS = {
    # cuDNN takes heads of up to 256 from Hopper on, and even lengths wherever there is a mask.
    "cudnn": Implementation(
        ("gpu",),
        dtypes=("bfloat16", "float16"),
        length_multiple=2,
        width_multiple=8,
        most_width=128,
    ),
    "splash": Implementation(("tpu",), length_multiple=LANES),
    "blocked": Implementation(EVERYWHERE, dropout=True, branches=True),
    "reference": Implementation(
        EVERYWHERE, dropout=True, explicit=True, branches=True, undivided=True
    ),
}
"""In the order in which "auto" prefers them."""

assert {"auto", *IMPLEMENTATIONS} == {*ATTENTIONS}


def chosen(call: Call, asked: str) -> str:
    """Finds the implementation: the one asked for, or for "auto" the first that can.

    "auto" leaves `blocked` out where all scores fit into one of its tiles: it would hold as much as
    the reference, and compute it twice. What it takes for segments is logged, once, and behind a
    colon whatever else it passes over.

    Raises:
      ValueError: if the one asked for is unknown, or cannot, saying why.
    """
    if asked == "auto":
        return _first_that_can(call)
    if asked not in IMPLEMENTATIONS:
        raise ValueError(f"attention {asked!r} is unknown; choose one of {ATTENTIONS}.")
    refusal = IMPLEMENTATIONS[asked].refusal(call)
    if refusal:
        raise ValueError(
            f"attention {asked!r} was asked for, and it {refusal}; change that, or choose "
            "ModelConfig.attention = 'auto'."
        )
    return asked


def _first_that_can(call: Call) -> str:
    scores = call.batch * call.heads * call.queries * call.keys
    in_one_tile = scores <= tile_scores(call.platform) * call.row_parts * call.head_parts
    passed_over = []
    for name, implementation in IMPLEMENTATIONS.items():
        refusal = implementation.refusal(call)
        if refusal is None and not (name == "blocked" and in_one_tile):
            break
        if refusal and call.platform in implementation.platforms:
            passed_over.append(f"{name} {refusal}")
    # Parameters are made by a call of one query, which says nothing of those that follow.
    if call.queries > 1 and not call.explicit:
        line = f"attention of {call.queries} queries to {call.keys} keys is {name!r}"
        _log_once(f"{line}: {'; '.join(passed_over)}" if passed_over else line)
    return name


@functools.cache
def _log_once(line: str) -> None:
    logger.info(line)
