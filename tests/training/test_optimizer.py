"""The schedule at its corners, what decays, and each optimizer in NumPy, layer by layer."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexatm_jax import gin_config, main
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training.optimizer import (
    Adafactor,
    AdamW,
    LinearSchedule,
    Lion,
    Muon,
    decay_mask,
    newton_schulz,
)
from alexatm_jax.training.optimizer_state import opt_state_shardings
from alexatm_jax.training.state import abstract_params

CONSTANT = LinearSchedule(peak=1.0, final=1.0, total_steps=9)


def test_the_papers_schedule_falls_from_the_first_step():
    schedule = LinearSchedule(peak=1e-4, final=5e-6, total_steps=500_000)
    wanted = {0: 1e-4, 250_000: 5.25e-5, 500_000: 5e-6, 600_000: 5e-6}
    for step, rate in wanted.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)


def test_a_schedule_rises_holds_and_falls():
    schedule = LinearSchedule(
        peak=8.0, final=2.0, total_steps=20, warmup_steps=4, decay_start_step=8
    )
    rates = [float(schedule(step)) for step in range(23)]
    assert rates[:4] == [2, 4, 6, 8]
    assert rates[4:9] == [8] * 5
    assert rates[8:21] == pytest.approx(np.linspace(8, 2, 13))
    assert rates[20:] == [2] * 3


@given(step=st.integers(0, 99), warmup=st.integers(0, 20), hold=st.integers(0, 20))
def test_a_schedule_stays_between_its_ends(step, warmup, hold):
    schedule = LinearSchedule(3.0, 1.0, 50, warmup, warmup + hold)
    rate, later = float(schedule(step)), float(schedule(step + 1))
    assert 0 < rate <= 3 and float(schedule(warmup)) == 3
    assert later >= rate if step < warmup else later <= rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(warmup_steps=20), "warms up for 20 steps and decays from step 20 to 10"),
        (dict(warmup_steps=-1), "warms up for -1 steps"),
        (dict(warmup_steps=5, decay_start_step=3), "decays from step 3 to 10"),
        (dict(total_steps=0), "to 0; these must come in this order"),
        (dict(final=2.0), "goes from 1.0 to 2.0; it must fall"),
        (dict(final=-1.0), "never below 0"),
    ],
)
def test_an_impossible_schedule_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LinearSchedule(**(dict(peak=1.0, final=0.5, total_steps=10) | changes))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_exactly_biases_and_layer_norms_do_not_decay(tiny, scan_layers):
    params = nn.unbox(abstract_params(tiny(scan_layers=scan_layers)))
    decayed = {True: set(), False: set()}
    for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(params)):
        names = [key.key for key in path]
        in_norm = any(name.endswith("_norm") for name in names)
        decayed[decays].add((in_norm, names[-1]))
    assert decayed[True] == {(False, "kernel"), (False, "table")}
    assert decayed[False] == {(False, "bias"), (True, "bias"), (True, "scale")}


SPECS = {
    "layers": {
        "query": {
            "kernel": P("layers", "embed", "heads", "kv"),
            "bias": P("layers", "heads", "kv"),
        },
        "out": {"kernel": P("layers", "heads", "kv", "embed"), "bias": P("layers", "embed")},
        "norm": {"scale": P("layers", "norm")},
    },
    "layer_0": {"in": {"kernel": P("embed", "mlp"), "bias": P("mlp")}},
    "lm_head": {"table": P("vocab", "embed")},
}
SIZES = dict(layers=2, embed=6, heads=2, kv=4, mlp=4, vocab=12, norm=6)


def drawn(seed: int):
    """Draws an array for each parameter of SPECS."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda axes: rng.normal(size=[SIZES[axis] for axis in axes]), SPECS)


def by_layer(names: P, x) -> list[np.ndarray]:
    """Cuts a parameter into the matrices or vectors of its layers."""
    stacked = names[0] == "layers"
    own = names[1:] if stacked else tuple(names)
    shape = [-1]
    if len(own) > 1 and "embed" in own:
        shape = [6, -1] if own[0] == "embed" else [-1, 6]
    return [np.asarray(layer, np.float64).reshape(shape) for layer in (x if stacked else [x])]


def adam_steps(settings: AdamW | Muon, gradients):
    m = v = 0.0
    for step, g in enumerate(gradients, start=1):
        m = settings.b1 * m + (1 - settings.b1) * g
        v = settings.b2 * v + (1 - settings.b2) * g**2
        m_hat, v_hat = m / (1 - settings.b1**step), v / (1 - settings.b2**step)
        yield m_hat / (np.sqrt(v_hat) + settings.epsilon)


def lion_steps(settings: Lion, gradients):
    m = 0.0
    for g in gradients:
        yield np.sign(settings.b1 * m + (1 - settings.b1) * g)
        m = settings.b2 * m + (1 - settings.b2) * g


def adafactor_steps(settings: Adafactor, gradients):
    """Gives steps that are still to be scaled by the parameter's size."""
    v = 0.0
    for step, g in enumerate(gradients, start=1):
        new = step**-settings.decay_exponent
        squares = g**2 + settings.epsilon
        if g.ndim == 2 and min(g.shape) >= settings.smallest_side:
            # The mean of row i times that of column j, over the mean of all.
            squares = [squares.mean(1, keepdims=True), squares.mean(0, keepdims=True)]
            old = v if step > 1 else [0.0, 0.0]
            v = [(1 - new) * x + new * y for x, y in zip(old, squares, strict=True)]
            whole = v[0] * v[1] / v[0].mean()
        else:
            whole = v = (1 - new) * v + new * squares
        u = g / np.sqrt(whole)
        yield u / max(1, np.sqrt((u**2).mean()) / settings.clip_threshold)


def muon_steps(settings: Muon, gradients):
    m = 0.0
    for g in gradients:
        m = settings.momentum * m + g
        x = g + settings.momentum * m
        x = x / np.linalg.norm(x)
        for _ in range(settings.iterations):
            a = x @ x.T
            x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
        yield 0.2 * np.sqrt(max(x.shape)) * x


def trained(settings, names: P, param: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Trains the matrix or vector of one layer, at learning rate 0.01."""
    steps = {AdamW: adam_steps, Lion: lion_steps, Adafactor: adafactor_steps}.get(type(settings))
    if isinstance(settings, Muon):
        within = param.ndim == 2 and "vocab" not in names
        steps = muon_steps if within else adam_steps
    for step in steps(settings, gradients):
        if isinstance(settings, Adafactor):
            step = step * max(np.sqrt((param**2).mean()), settings.smallest_scale)
        param = param - 0.01 * (step + settings.weight_decay * param * (param.ndim == 2))
    return param


@pytest.mark.parametrize("moment_dtype", [None, "float32"])
@pytest.mark.parametrize(
    "settings",
    [
        AdamW(CONSTANT, b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.3),
        Lion(CONSTANT, weight_decay=0.3),
        Adafactor(CONSTANT, weight_decay=0.3, smallest_side=6, clip_threshold=0.9),
        Muon(CONSTANT, weight_decay=0.3, momentum=0.9),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_an_optimizer_is_its_formulas(settings, moment_dtype):
    direction = dataclasses.replace(settings, moment_dtype=moment_dtype).direction(SPECS)
    start, gradients = drawn(0), [drawn(seed) for seed in (1, 2, 3)]

    @jax.jit
    def train_step(params, state, gradient):
        updates, state = direction.update(gradient, state, params)
        return jax.tree.map(lambda x, update: x + 0.01 * update, params, updates), state

    params = jax.tree.map(jnp.float32, start)
    state = direction.init(params)
    for gradient in gradients:
        params, state = train_step(params, state, jax.tree.map(jnp.float32, gradient))

    def check(path, names, *arrays):
        for got, first, *own in zip(*(by_layer(names, x) for x in arrays), strict=True):
            wanted = trained(settings, names, first, own)
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=str(path))

    jax.tree_util.tree_map_with_path(check, SPECS, params, start, *gradients)


def muon_on_a_mesh(sizes, shape, names, axes) -> str:
    """Compares a direction on a mesh with that of one device; gives the compiled program."""
    gradient = {"kernel": jax.random.normal(jax.random.key(0), shape)}
    direction = Muon(CONSTANT).direction({"kernel": names})
    partitioning = Partitioning(*sizes)
    mesh = partitioning.make_mesh(jax.devices()[: math.prod(sizes)])
    place = NamedSharding(mesh, axes)

    def update(gradient):
        return direction.update(gradient, direction.init(gradient), gradient)[0]["kernel"]

    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules):
        placed = jax.device_put(gradient, place)
        compiled = jax.jit(update, out_shardings=place).lower(placed).compile()
    np.testing.assert_allclose(compiled(placed), jax.jit(update)(gradient), rtol=1e-4, atol=1e-5)
    return compiled.as_text()


@pytest.mark.parametrize("sizes", [(1, 2, 1), (1, 4, 2)], ids=str)
def test_muon_makes_whole_matrices_orthogonal_on_any_mesh(sizes):
    """A device gets whole layers instead of parts of them; there are fewer layers than devices."""
    names = P("layers", "embed", "heads", "kv")
    text = muon_on_a_mesh(sizes, (3, 8, 2, 4), names, P(None, "fsdp", "tensor"))
    assert "all-to-all" in text and "all-gather" not in text


@pytest.mark.parametrize("sizes", [(1, 8, 1), (1, 4, 2)], ids=str)
def test_muon_gathers_the_matrix_of_an_unrolled_layer_once(sizes):
    """Left in parts, it was gathered fifteen times."""
    text = muon_on_a_mesh(sizes, (64, 256), P("embed", "mlp"), P("fsdp", "tensor"))
    assert text.count(" all-gather(") == 1


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (16, 16)])
def test_newton_and_schulz_make_a_matrix_about_orthogonal(shape):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = newton_schulz(gradient, 5)
    left, sizes, right = np.linalg.svd(gradient, full_matrices=False)
    # The gradient's own directions stay, and their sizes become about 1.
    inner = left.T @ found @ right.T
    np.testing.assert_allclose(left @ np.diag(np.diag(inner)) @ right, found, atol=1e-4)
    large = np.diag(inner)[sizes > 0.1 * sizes[0]]
    assert large.min() > 0.65 and large.max() < 1.25


def test_bfloat16_moments_forget_as_float32_ones_do():
    """To the nearest, 0.999 of a bfloat16 rounds back to it: nothing would be forgotten."""
    large = {"kernel": jax.random.uniform(jax.random.key(0), (40, 50), minval=1, maxval=2)}

    def second_moment(moment_dtype: str):
        direction = AdamW(CONSTANT, moment_dtype=moment_dtype).direction(None)

        def small(step, state):
            gradient = {"kernel": 0.05 * jax.random.normal(jax.random.key(step), (40, 50))}
            return direction.update(gradient, state, large)[1]

        state = direction.update(large, direction.init(large), large)[1]
        stored = jax.lax.fori_loop(0, 1000, small, state)[0].inner.nu["kernel"]
        assert stored.dtype == moment_dtype
        return np.asarray(stored, np.float32)

    ratio = second_moment("bfloat16") / second_moment("float32")
    assert ratio.mean() == pytest.approx(1, abs=0.005) and ratio.std() < 0.1


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        (AdamW(CONSTANT), (2.0, 2.0)),
        (AdamW(CONSTANT, moment_dtype="bfloat16"), (1.0, 1.0)),
        (Lion(CONSTANT), (1.0, 1.0)),
        (Muon(CONSTANT), (1.0, 2.0)),
        (Adafactor(CONSTANT, smallest_side=8), (0.01, 0.6)),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_a_device_holds_its_part_of_the_state(tiny, settings, shares):
    """On 2 x 2 x 2 devices, in bytes of the parameters that this device holds."""
    boxed, partitioning = abstract_params(tiny()), Partitioning(2, 2, 2)
    mesh = partitioning.make_mesh()
    places = partitioning.param_shardings(boxed, mesh)
    direction, params = settings.direction(nn.get_partition_spec(boxed)), nn.unbox(boxed)
    shardings = opt_state_shardings(direction, params, places, mesh)
    state = jax.eval_shape(direction.init, params)
    held = sum(map(shard_bytes, jax.tree.leaves(state), jax.tree.leaves(shardings)))
    own = sum(map(shard_bytes, jax.tree.leaves(params), jax.tree.leaves(places)))
    assert shares[0] * own <= held <= shares[1] * own + 8


def shard_bytes(leaf, sharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def test_factored_moments_are_divided_as_their_parameters_are():
    mesh = Partitioning(1, 4, 2).make_mesh()
    params = {"kernel": jax.ShapeDtypeStruct((3, 8, 4, 2), jnp.float32)}
    places = {"kernel": NamedSharding(mesh, P(None, "fsdp", "tensor"))}
    direction = Adafactor(CONSTANT, smallest_side=8).direction(
        {"kernel": P("layers", "embed", "heads", "kv")}
    )
    factored, *_ = opt_state_shardings(direction, params, places, mesh)[0]
    assert factored.second["kernel"].rows.spec == P(None, "fsdp", None, None)
    assert factored.second["kernel"].columns.spec == P(None, None, "tensor", None)
    assert factored.step.is_fully_replicated


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (AdamW, dict(b2=1.0), "b2 is 1.0; it is the share of the past"),
        (Lion, dict(b1=-0.1), "b1 is -0.1"),
        (Adafactor, dict(momentum=1.5), "momentum is 1.5"),
        (Adafactor, dict(moment_dtype="bfloat16"), "Adafactor has no momentum, .* or set momentum"),
        (Adafactor, dict(clip_threshold=0.0), "clip_threshold is 0.0; it must be more than 0"),
        (Muon, dict(iterations=0), "iterations is 0; it must be more than 0"),
        (AdamW, dict(weight_decay=-0.1), "weight_decay is -0.1 and clip_norm 1.0"),
        (AdamW, dict(clip_norm=0.0), "clip_norm 0.0; .* None to clip nothing"),
        (AdamW, dict(moment_dtype="float16"), "moment_dtype is 'float16'; write"),
    ],
)
def test_an_impossible_setting_is_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(CONSTANT, **changes)


@pytest.mark.parametrize("kind", ["AdamW", "Lion", "Adafactor", "Muon"])
def test_a_gin_file_chooses_the_optimizer(kind, tmp_path):
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from alexatm_jax.training import optimizer\n"
        "include 'models/tiny.gin'\n"
        "include 'runs/pretrain.gin'\n"
        f"optimizer.{kind}:\n"
        "  schedule = @optimizer.LinearSchedule()\n"
        "  moment_dtype = 'bfloat16'\n" + ("  momentum = 0.9\n" if kind == "Adafactor" else "")
    )
    chosen = f"TrainingConfig.optimizer=@optimizer.{kind}()"
    gin_config.load(["own.gin"], [chosen], gin_config.search_paths([str(tmp_path)]))
    _, arguments = main.configured("plan")
    optimizer = arguments["training"].optimizer
    assert (type(optimizer).__name__, optimizer.moment_dtype) == (kind, "bfloat16")
    assert optimizer.schedule.peak == 1e-4
