"""Training and decoding are timed on what they are said to be timed on; peers are named."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from alexatm_jax.partitioning import Partitioning
from benchmarks import decode, layers_of_20b, matmul, own_model, peers, t5x_peer, train_step
from benchmarks.own_model import Training, variant
from benchmarks.peers import Compared
from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, in_turns

TINY = {
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "vocab_size": 50,
    "batch_size": 2,
    "source_length": 8,
    "target_length": 6,
}
OPTIONS = [f"--{name}={value}" for name, value in TINY.items()] + ["--rounds=1", "--steps=1"]


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(autouse=True)
def one_device(monkeypatch, quick_compilation):
    """Steps for eight devices take as long again to compile, and show nothing more."""
    make_mesh = Partitioning.make_mesh
    monkeypatch.setattr(
        Partitioning, "make_mesh", lambda self, _: make_mesh(self, jax.devices()[:1])
    )


@pytest.fixture
def few_products(monkeypatch):
    monkeypatch.setattr(matmul, "SQUARE", (8, 8, 8))


@pytest.fixture
def in_this_process(monkeypatch):
    """Prepares and measures without workers, which take seconds to start."""

    def prepared(side):
        told = dict(side.settings)
        if side.module == "matmul":
            return (matmul.prepare_chain if "repeats" in told else matmul.prepare)(**told)
        return own_model.prepare(told["task"], Shape(**told["shape"]), told["changes"], 1)

    def compare(sides, rounds, tell, environment=None):
        measures = {name: prepared(side) for name, side in sides.items()}
        nothing = dict.fromkeys(sides)
        return Compared(in_turns(measures, rounds, tell), nothing, nothing)

    monkeypatch.setattr(peers, "compare", compare)


def test_the_step_is_timed_and_absent_peers_are_named(few_products, in_this_process, capsys):
    assert train_step.main([*OPTIONS, "--json"]) == 0
    result = last_line(capsys)
    assert set(result["tokens_per_second"]) == set(result["peak_bytes"]) == {"ours"}
    assert set(result["left_out"]) == {"published", "BART", "scalable_t5"}
    assert "give --published_python" in train_step.table(result)
    seconds = result["seconds_per_step"]["ours"]
    assert seconds * result["tokens_per_second"]["ours"] == pytest.approx(2 * (8 + 6))


@pytest.mark.slow
def test_workers_time_variants_and_tell_versions_and_memory(few_products, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # workers have one device
    assert train_step.main([*OPTIONS, "--json", "--variant=remat=full"]) == 0
    result = last_line(capsys)
    assert set(result["ratios"]) == {"ours, remat=full"} and result["versions"]["ours"]["jax"]
    assert min(result["peak_bytes"].values()) > 2**20


def test_decoding_is_timed_at_each_batch_size(in_this_process, capsys):
    assert decode.main([*OPTIONS, "--json", "--batch_sizes", "1"]) == 0
    result = last_line(capsys)
    assert set(result["tokens_per_second"]) == {"ours, batch 1"} and not result["ratios"]
    assert 0 < result["first_token_seconds"]["ours, batch 1"]
    assert result["products_seconds_per_token"]["batch 1"] > 0
    assert "alexa-teacher-models" in result["left_out"]["published"]
    assert "ours, batch 1" in decode.table(result)
    assert "processor" in result["machine"]


def test_a_frozen_encoder_leaves_the_flops_that_the_phase_has():
    shape = Shape(**TINY)
    whole, frozen = (own_model.step_flops(shape, variant(v)) for v in (None, "frozen=encoder"))
    tokens, weights = 2 * 8, 4 * 16 * 16 + 2 * 16 * 32
    attention = 2 * 2 * 2 * 8 * 8 * 16
    cross = 2 * 2 * tokens * 16 * 16
    assert whole - frozen == 2 * (2 * tokens * weights + attention) + cross
    state = own_model.Training(shape, {"frozen": "encoder"})._state
    assert "encoder" not in state.opt_state["from_0"][0].mu


def test_a_batch_is_full_and_every_step_changes_the_parameters():
    shape = Shape(**TINY)
    batch = own_model.training_batch(shape)
    assert batch["encoder_input_tokens"].shape == (2, 8) and batch["decoder_segment_ids"].all()
    training = Training(shape, {"remat": "dots", "log_period_steps": 2})
    before = np.asarray(training._state.params["lm_head"]["table"])
    assert training.step() == 2 * (8 + 6) and int(training._state.step) == 1
    assert (np.asarray(training._state.params["lm_head"]["table"]) != before).any()


def test_answers_have_all_their_tokens():
    answers = own_model.decoding(Shape(**TINY), {})()
    assert answers.shape == (2, 6) and (answers >= 0).all()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("remat=full,num_microbatches=2", {"remat": "full", "num_microbatches": 2}),
        ("decoder_attention_dropout_rate=0.1", {"decoder_attention_dropout_rate": 0.1}),
        ("frozen=encoder+encoder_tokens", {"frozen": "encoder+encoder_tokens"}),
    ],
)
def test_variants_name_fields_of_ours(text, wanted):
    assert variant(text) == wanted


@pytest.mark.parametrize("text", ["remat", "=full", "speed=2", "remat=full,=1"])
def test_other_variants_are_refused(text):
    with pytest.raises(BenchmarkError, match="NAME=VALUE|no field"):
        variant(text)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--batch_size=0"], "--batch_size is 0"),
        (["--variant=speed=2"], "speed: no field"),
        (["--variant=frozen=head"], "freezes 'head'"),
        (["--set=remat=some"], "remat is 'some'"),
    ],
)
def test_mistakes_are_told_before_a_worker_starts(capsys, options, reason):
    assert train_step.main([*OPTIONS, *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_single_new_token_leaves_no_step_to_time(capsys):
    assert decode.main([*OPTIONS, "--target_length=1"]) == 2
    assert "--target_length is 1" in capsys.readouterr().err


def test_a_checkout_of_t5x_is_looked_into_first(tmp_path):
    with pytest.raises(BenchmarkError, match="give the root of a checkout"):
        t5x_peer.load_network(tmp_path)


def test_products_are_those_of_the_layers():
    shape = Shape(**TINY)
    assert len(matmul.layer_products(shape)) == 18
    assert matmul.head_products(shape) == [(12, 16, 50), (12, 50, 16), (16, 12, 50)]
    weights = sum(k * n for _, k, n in matmul.decoding_products(shape))
    assert weights == 6 * 16 * 16 + 2 * 16 * 32 + 16 * 50
    operations = 2 * sum(m * k * n for m, k, n in matmul.layer_products(shape))
    tokens, parameters = 2 * 8, 4 * 16 * 16 + 2 * 16 * 32
    assert operations == 6 * tokens * parameters


@pytest.mark.slow
def test_layers_of_20b_run_small_on_any_device(capsys):
    options = [one for one in OPTIONS if "layers" not in one and "rounds" not in one]
    options += ["--json", "--groups=1", "--matmul_size=8", "--remat=none", "--source_length=16"]
    assert layers_of_20b.main(options) == 0
    result = last_line(capsys)
    assert [found["shape"]["encoder_layers"] for found in result["runs"]] == [3]
    assert max(result["attention_errors"].values()) < 0.03
    assert result["runs"][0]["mfu"] is None and "no data sheet" in layers_of_20b.table(result)
    assert layers_of_20b.main(options[:-4]) == 2
    assert "--groups" in capsys.readouterr().err


def out_of_memory(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 200 GiB")


def test_a_policy_that_fails_leaves_the_others_their_figures(monkeypatch, capsys):
    """The first policy never fits, the second with one group fewer than the compiler said."""

    def timed(shape, changes, steps):
        if changes["remat"] == "none" or shape.encoder_layers > 3:
            out_of_memory()
        figures = {"tokens_per_second": 7.0, "flops_per_second": 5.0, "compiled_bytes": 2**30}
        return figures | {"shape": vars(shape), "kernels": {"__cudnn$fmha": 2}}

    monkeypatch.setattr(layers_of_20b, "_timed", timed)
    monkeypatch.setattr(layers_of_20b, "_memory_limit", lambda: 1)
    monkeypatch.setattr(layers_of_20b, "groups_that_fit", lambda *_: 2)
    monkeypatch.setattr(layers_of_20b, "attention_errors", lambda _: {"auto, full": 0.01})
    options = [one for one in OPTIONS if "layers" not in one and "rounds" not in one]
    assert (
        layers_of_20b.main([*options, "--json", "--matmul_size=8", "--remat", "none", "full"]) == 0
    )
    printed = capsys.readouterr().out
    none, full = json.loads(printed.splitlines()[-1])["runs"]
    assert "RESOURCE_EXHAUSTED" in none["error"] and "1 groups" in none["error"]
    assert full["shape"]["encoder_layers"] == 3 and full["tokens_per_second"] == 7
    assert "__cudnn$fmha 2" in printed


def test_what_the_compiler_refuses_does_not_fit(monkeypatch):
    monkeypatch.setattr(layers_of_20b, "compiled_step", out_of_memory)
    with pytest.raises(BenchmarkError, match="one group of layers needs inf GiB"):
        layers_of_20b.groups_that_fit(Shape(**TINY), {}, 1000)


def test_as_many_groups_are_taken_as_fit(monkeypatch):
    monkeypatch.setattr(layers_of_20b, "compiled_step", lambda shape, changes, **_: shape)
    monkeypatch.setattr(
        layers_of_20b,
        "_bytes",
        lambda shape: 100 + 10 * shape.encoder_layers + shape.decoder_layers,
    )
    fitting = layers_of_20b.groups_that_fit(Shape(**TINY), {}, 1000)
    assert 100 + fitting * 32 <= 970 < 100 + (fitting + 1) * 32
    with pytest.raises(BenchmarkError, match="one group of layers needs"):
        layers_of_20b.groups_that_fit(Shape(**TINY), {}, 120)
