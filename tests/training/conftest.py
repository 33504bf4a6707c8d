"""A tiny model to train, batches of uneven rows, and one compilation per program."""

from __future__ import annotations

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental.compilation_cache import compilation_cache

from alexatm_jax.batch import batch_shapes, check_batch
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.training.optimizer import AdamW, LinearSchedule
from alexatm_jax.training.phases import resolved
from alexatm_jax.training.state import abstract_params

ROWS, S, T, V = 8, 6, 7, 20


@pytest.fixture(autouse=True, scope="module")
def compile_once(quick_compilation, tmp_path_factory):
    """Keeps what `train` compiles for its next run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp() / "compiled"))
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tiny():
    """Makes a scanned model of 2 + 2 layers that every mesh of 8 devices can hold.

    It drops attention probabilities alone: each further kind of dropout costs seconds to compile.
    """

    def make(**changes) -> Transformer:
        sizes = dict(
            vocab_size=V,
            d_model=8,
            num_heads=4,
            d_ff=16,
            num_encoder_layers=2,
            num_decoder_layers=2,
            max_positions=8,
            norm="standard",
            norm_epsilon=1e-6,
            dropout_rate=0.0,
            encoder_attention_dropout_rate=0.1,
        )
        return Transformer(ModelConfig(**(sizes | changes)))

    return make


@pytest.fixture(scope="session")
def adamw():
    """Makes an optimizer with a constant learning rate."""

    def make(rate: float = 0.01, **changes) -> AdamW:
        return AdamW(LinearSchedule(rate, rate, total_steps=1000), **changes)

    return make


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Gradient descent behind the interface of our optimizers."""

    schedule: LinearSchedule
    clip_norm: float | None = None

    def direction(self, specs) -> optax.GradientTransformation:
        return optax.sgd(1.0)


@pytest.fixture(scope="session")
def sgd():
    """Makes plain gradient descent with a constant learning rate."""
    return lambda rate, **changes: Sgd(LinearSchedule(rate, rate, total_steps=1000), **changes)


@pytest.fixture(scope="session")
def phases_of():
    """Resolves phases of a model and an optimizer for the batches made here; one by default."""

    def make(model: Transformer, optimizer, phases=(), train_steps=1000):
        return resolved(
            phases,
            train_steps=train_steps,
            model=model.config,
            schedule=optimizer.schedule,
            batch_size=ROWS,
            source_length=S,
            target_length=T,
        )

    return make


@pytest.fixture(scope="session")
def make_batch():
    """Makes the batch of an index: rows of one or two examples, of very different lengths."""

    def make(index: int, rows: int = ROWS) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([index, rows])
        batch = {
            name: np.zeros(shape, np.int32) for name, shape in batch_shapes(rows, S, T).items()
        }
        for row in range(rows):
            filled = {"encoder": 0, "decoder": 0}
            for segment, longest in ((1, (S - 1, T - 1)), (2, (1, 1)))[: 1 + row % 2]:
                lengths = {"encoder": longest[0], "decoder": rng.integers(1, longest[1] + 1)}
                for side, length in lengths.items():
                    place = (row, slice(filled[side], filled[side] + length))
                    filled[side] += length
                    batch[f"{side}_segment_ids"][place] = segment
                    batch[f"{side}_positions"][place] = np.arange(length)
                    tokens = rng.integers(7, V, length)
                    if side == "encoder":
                        batch["encoder_input_tokens"][place] = tokens
                    else:
                        batch["decoder_target_tokens"][place] = tokens
                        batch["decoder_input_tokens"][place] = np.r_[1, tokens[:-1]]
                        batch["decoder_objective_ids"][place] = (row + segment) % 2
        check_batch(batch)
        return batch

    return make


def by_layer(leaves: dict) -> dict:
    """Names arrays layer by layer, whether layers are stacked or not."""
    named = {}
    for path, leaf in leaves.items():
        stack, stacked, rest = path.partition("/layers/")
        names = {path: leaf}
        if stacked:
            names = {f"{stack}/layer_{i}/{rest}": leaf[i] for i in range(len(leaf))}
        named |= {name: np.asarray(value, np.float32) for name, value in names.items()}
    return named


def drawn_leaves(model: Transformer) -> dict[str, jax.Array]:
    """Draws every parameter by its name, alike in both layouts."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)

    leaves = {}
    for path, leaf in flatten_dict(nn.unbox(abstract_params(model)), sep="/").items():
        stack, stacked, rest = path.partition("/layers/")
        if stacked:
            names = [f"{stack}/layer_{i}/{rest}" for i in range(leaf.shape[0])]
            values = np.stack([draw(name, leaf.shape[1:]) for name in names])
        else:
            values = draw(path, leaf.shape)
        leaves[path] = jnp.asarray(values, leaf.dtype)
    return leaves


@pytest.fixture(scope="session")
def values_by_layer():
    """Names a parameter tree's values layer by layer, in float32."""
    return lambda params: by_layer(flatten_dict(params, sep="/"))


@pytest.fixture(scope="session")
def values_of():
    """Gives what `write_checkpoint` writes of a model, layer by layer, in float32."""
    return lambda model: by_layer(drawn_leaves(model))


@pytest.fixture(scope="session")
def write_checkpoint():
    """Writes a model's drawn parameters, or some of them, as an import would: no state, step 0."""

    def write(folder, model, keep=lambda path: True, sha256=None, **provenance):
        leaves = {path: leaf for path, leaf in drawn_leaves(model).items() if keep(path)}
        about = {"model": dataclasses.asdict(model.config), "vocabulary_sha256": sha256}
        with ocp.CheckpointManager(folder / "checkpoints") as manager:
            manager.save(
                0,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(unflatten_dict(leaves, sep="/")),
                    provenance=ocp.args.JsonSave(about | provenance),
                ),
            )
        return folder

    return write
