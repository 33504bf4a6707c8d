"""What shapes say, against arrays that really lie on eight devices."""

from __future__ import annotations

import collections
import math

import jax
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model import Transformer
from alexatm_jax.model.config import REMAT_POLICIES
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.planning.accounting import part_of, saved_activation_bytes, tables, tree_bytes
from alexatm_jax.planning.plan import states_on
from alexatm_jax.training.state import abstract_params, abstract_state, state_shardings
from alexatm_jax.training.step import batch_loss


def held_bytes(tree) -> int:
    """Bytes that the first device really holds."""
    first = jax.devices()[0]
    shards = [shard for x in jax.tree.leaves(tree) for shard in x.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == first)


@pytest.mark.parametrize(
    ("sizes", "scan_layers"), [((2, 2, 2), True), ((1, 8, 1), False), ((8, 1, 1), True)]
)
def test_tables_add_up_to_what_a_device_really_holds(make_job, make_machine, sizes, scan_layers):
    job = make_job(Partitioning(*sizes), scan_layers=scan_layers)
    [phase] = job.phases
    rows = tables(states_on(job, make_machine())["train"], phase.trained)
    about = (Transformer(job.model), job.training.optimizer, phase)
    shardings = state_shardings(*about, job.partitioning, job.partitioning.make_mesh())
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_state(*about, shardings))
    state = jax.device_put(zeros, shardings)

    assert sum(row.parameters for row in rows) == sum(x.size for x in jax.tree.leaves(state.params))
    assert sum(row.parameter_bytes for row in rows) == held_bytes(state.params)
    others = (state.opt_state, state.sums, state.step)
    assert sum(row.optimizer_bytes for row in rows) == held_bytes(others)
    for row in rows[:-1]:
        assert (row.optimizer_bytes, row.gradient_bytes) == (
            2 * row.parameter_bytes,
            row.parameter_bytes,
        )
    assert rows[-1].name == "scalars"
    assert tree_bytes(states_on(job, make_machine())["train"]) == held_bytes(state)


def test_parts_are_the_same_in_both_layouts(make_job):
    counts = []
    for scan_layers in (True, False):
        params = nn.unbox(abstract_params(Transformer(make_job(scan_layers=scan_layers).model)))
        found: collections.Counter[str] = collections.Counter()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            found[part_of([key.key for key in path])] += math.prod(leaf.shape)
        counts.append(found)
    assert counts[0] == counts[1]
    d, f = 16, 20
    assert counts[0]["decoder feed_forward"] == 3 * (2 * d * f + f + d)
    assert counts[0]["decoder cross_attention"] == 3 * 4 * (d * d + d)
    assert counts[0]["encoder norms"] == (2 * 2 + 1) * 2 * d
    assert counts[0]["lm_head"] == 52 * d


def really_saved(config, rows: int) -> int:
    """Differentiates the loss of real arrays and adds up what is kept, parameters too."""
    model = Transformer(config)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), nn.unbox(abstract_params(model)))
    batch = {name: np.ones(shape, np.int32) for name, shape in batch_shapes(rows, 10, 8).items()}

    def kept(params, batch):
        def loss(params):
            return batch_loss(model, params, batch, jax.random.key(0), 4)[0]

        return jax.tree.leaves(jax.vjp(loss, params)[1])

    return sum(x.nbytes for x in jax.jit(kept)(params, batch))


def test_saved_activations_are_those_of_the_real_backward_pass(make_job, quick_compilation):
    config = make_job(remat="full").model
    grown = really_saved(config, 4) - really_saved(config, 2)  # what does not grow cancels
    found = saved_activation_bytes(config, 2, 10, 8, loss_chunk_length=4)
    # The program may keep an array twice, under two names.
    assert 0.8 * grown <= found <= grown


def test_remat_keeps_less_and_rows_keep_as_much_each(make_job):
    configs = [make_job(remat=remat).model for remat in reversed(REMAT_POLICIES)]
    saved = [saved_activation_bytes(config, 2, 10, 8) for config in configs]
    assert saved == sorted(saved)
    assert saved[0] >= 4 * 2 * 16 * (2 * 10 + 3 * 8)  # the input of every layer
    assert saved_activation_bytes(configs[0], 4, 10, 8) == 2 * saved[0]
    assert saved[-1] / 2 < saved_activation_bytes(configs[-1], 2, 10, 8, tensor=2) < saved[-1]
