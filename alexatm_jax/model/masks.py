"""Says which positions may attend to which, as briefly as each kind can be said."""

from __future__ import annotations

import flax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class Segments:
    """A query sees the keys of its own segment, up to its own index if causal.

    Padding is segment 0: no real token attends to it, and in self-attention padding attends to
    padding. A query that sees no key gets numbers that nothing may read; they are finite, and so
    are their gradients.

    Attributes:
      queries_BL, keys_BM: int32 segment ids.
      causal: key m is seen by the queries l >= m alone; L equals M.
      branches_BM: int32, of the keys of self-attention: those of branch 0 are seen by all of their
        segment, those of another branch by that branch alone. None: all are of branch 0.
    """

    queries_BL: Array
    keys_BM: Array
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    branches_BM: Array | None = None

    @classmethod
    def of_self(
        cls, segments_BL: Array, *, causal: bool = False, branches_BL: Array | None = None
    ) -> Segments:
        """Lets the positions of one sequence attend to each other."""
        return cls(segments_BL, segments_BL, causal, branches_BL)

    def keys_before(self, end: int) -> int:
        """Counts the keys that queries before `end` may see; later ones can be left out."""
        return end if self.causal else self.keys_BM.shape[-1]

    def of_queries(self, begin: int, end: int) -> Array:
        """Makes the mask of some queries: bool [B, end - begin, keys_before(end)]."""
        keys = self.keys_before(end)

        def same(queries_BL: Array, keys_BM: Array) -> Array:
            return queries_BL[..., begin:end, None] == keys_BM[..., None, :keys]

        mask_BLM = same(self.queries_BL, self.keys_BM)
        if self.causal:
            earlier_LM = jnp.arange(begin, end)[:, None] >= jnp.arange(keys)[None]
            mask_BLM &= jnp.broadcast_to(earlier_LM, mask_BLM.shape)
        if self.branches_BM is not None:
            of_all_BLM = jnp.broadcast_to(self.branches_BM[..., None, :keys] == 0, mask_BLM.shape)
            mask_BLM &= of_all_BLM | same(self.branches_BM, self.branches_BM)
        return mask_BLM

    def mask(self) -> Array:
        """Makes the whole mask, bool [B, 1, L, M]."""
        return self.of_queries(0, self.queries_BL.shape[1])[:, None]


@flax.struct.dataclass
class Explicit:
    """A query sees the keys that a mask says; for few queries, such as a decoder's next token.

    Attributes:
      array: bool, broadcasts to [B, H, L, M].
    """

    array: Array

    def mask(self) -> Array:
        """Gives the mask itself."""
        return self.array


Visible = Segments | Explicit
"""Which keys each query may attend to."""
