"""From phase to phase: exact through any stop, and nothing is computed for what is frozen."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest

from alexatm_jax.model.flops import ENCODER_PARTS
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import loop
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.optimizer import LinearSchedule
from alexatm_jax.training.phases import Phase
from alexatm_jax.training.state import create_state, entered, state_shardings

THAW = 2
LATER = LinearSchedule(0.002, 0.002, total_steps=9)
PHASES = (Phase(0, ["encoder"]), Phase(THAW, [], LATER))


@pytest.fixture(scope="module")
def one_device():
    return Partitioning().make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def settings(tiny, adamw):
    """A model whose decoder is narrower, how to train it, and the phases."""
    model = tiny(d_ff=24, decoder_d_ff=16)
    periods = dict(log_period_steps=3, checkpoint_period_steps=1, max_checkpoints=None)
    config = TrainingConfig(4, adamw(weight_decay=0.5), phases=PHASES, **periods)
    return model, config, config.resolved_phases(model.config, 8, 6, 7)


@pytest.fixture(scope="module")
def run(settings, one_device, make_batch):
    """Trains 2 + 2 steps into a folder; gives the state, and the calls that opened a reader."""

    def train(folder):
        opened = []

        def open_reader(phase, state, crossing):
            opened.append((phase.number, state and state["next"], crossing))
            index = 0 if state is None else state["next"]
            while True:
                index += 1
                yield make_batch(index - 1), {"next": index}

        model, config, phases = settings
        state = loop.train(
            model,
            config,
            phases,
            Partitioning(),
            one_device,
            open_reader,
            folder,
            {},
        )
        return state, opened

    return train


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *run(folder)


def rows_in(folder) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    kept = ("step", "loss", "gradient_norm", "learning_rate", "decoder_tokens")
    return [{name: row[name] for name in kept} for row in rows]


def test_every_phase_opens_its_reader_and_ends_with_a_line(unbroken):
    folder, state, opened = unbroken
    assert opened == [(0, None, False), (1, THAW, True)]
    assert [row["step"] for row in rows_in(folder)] == [2, 3, 4]
    rates = [row["learning_rate"] for row in rows_in(folder)]
    assert rates == pytest.approx([0.01, 0.002, 0.002])
    counts = {name: int(group[0].count) for name, group in state.opt_state.items()}
    assert counts == {"from_0": 4, "from_2": 2}


@pytest.mark.parametrize("killed_at", [THAW - 1, THAW, THAW + 1], ids="step_{}".format)
def test_a_run_killed_around_the_boundary_goes_on_bit_for_bit(unbroken, run, tmp_path, killed_at):
    """It goes on from the checkpoints that a kill after this step leaves."""
    folder, wanted, _ = unbroken
    for step in range(1, killed_at + 1):
        there = Path("checkpoints", str(step))
        shutil.copytree(folder / there, tmp_path / there)
    shutil.copy(folder / "metrics.jsonl", tmp_path)
    state, opened = run(tmp_path)
    first = (int(killed_at >= THAW), killed_at, killed_at == THAW)
    assert opened == ([first, (1, THAW, True)] if killed_at < THAW else [first])
    assert rows_in(tmp_path) == rows_in(folder)
    jax.tree.map(np.testing.assert_array_equal, state, wanted)


def test_a_phase_that_cannot_be_compiled_ends_the_run_before_any_update(run, tmp_path, monkeypatch):
    compile_step = loop.compile_step

    def compile_first(model, config, phase, *where):
        if phase.number > 0:
            raise MemoryError("the thawed step")
        return compile_step(model, config, phase, *where)

    monkeypatch.setattr(loop, "compile_step", compile_first)
    with pytest.raises(MemoryError):
        run(tmp_path)
    assert rows_in(tmp_path) == [] and not list((tmp_path / "checkpoints").iterdir())


def test_the_program_of_a_phase_goes_with_it(run, tmp_path, monkeypatch):
    compile_step, enter, programs, held = loop.compile_step, loop._Run.enter, [], []

    def compile_watched(*settings):
        program = compile_step(*settings)
        programs.append(weakref.ref(program))
        return program

    def enter_watched(*arguments):
        gc.collect()
        held.append([program() is not None for program in programs])
        return enter(*arguments)

    monkeypatch.setattr(loop, "compile_step", compile_watched)
    monkeypatch.setattr(loop._Run, "enter", enter_watched)
    run(tmp_path)
    assert held == [[True, True], [False, True]]


@pytest.fixture(scope="module")
def compiled(settings, one_device):
    model, config, phases = settings
    return [loop.compile_step(model, config, phase, Partitioning(), one_device) for phase in phases]


def test_what_is_frozen_has_no_backward_pass(compiled):
    texts = [step.as_text() for step in compiled]
    dots = [
        [line for line in text.splitlines() if " dot(" in line and "/encoder/" in line]
        for text in texts
    ]
    # Queries, keys, values, scores, their sums, outputs, in and out; each has two derivatives.
    assert [len(lines) for lines in dots] == [8, 3 * 8]
    assert not any("transpose(jvp" in line for line in dots[0])
    both_layers = "[2,8,6,24]"
    assert [both_layers in text for text in texts] == [False, True]
    memory = [step.memory_analysis().temp_size_in_bytes for step in compiled]
    assert memory[0] < 0.75 * memory[1]


def test_a_frozen_step_touches_nothing_frozen(settings, compiled, one_device, make_batch):
    (model, config, (phase, _)), (step, _) = settings, compiled
    shardings = state_shardings(model, config.optimizer, phase, Partitioning(), one_device)
    state = create_state(model, config.optimizer, phase, shardings, 0)
    assert not ENCODER_PARTS & {
        key.key
        for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
        for key in path
        if isinstance(key, jax.tree_util.DictKey)
    }
    before = jax.device_get(state.params)
    after, _ = step(state, jax.device_put(make_batch(0), shardings.step))
    for part in before:
        same = jax.tree.map(lambda x, y: np.array_equal(x, y), before[part], after.params[part])
        assert all(jax.tree.leaves(same)) == (part in ENCODER_PARTS), part


def test_frozen_again_state_is_lost_and_thawed_again_it_is_new(tiny, adamw, one_device):
    model = tiny()
    phases = [Phase(0, []), Phase(2, ["decoder"]), Phase(4, []), Phase(6, ["encoder"])]
    config = TrainingConfig(9, adamw(), phases=phases)
    state, held = None, []
    for phase in config.resolved_phases(model.config, 8, 6, 7):
        shardings = state_shardings(model, config.optimizer, phase, Partitioning(), one_device)
        if state is None:
            state = create_state(model, config.optimizer, phase, shardings, 0)
        state = entered(state, model, config.optimizer, phase, shardings)
        jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(str(s)), state, shardings)
        held.append({name: int(group[0].count) for name, group in state.opt_state.items()})
        stepped = jax.tree.map(lambda x: x + 2, state.opt_state)
        state = state.replace(opt_state=stepped)
    assert held == [{"from_0": 0}, {"from_0": 2}, {"from_0": 4, "from_4": 0}] + [
        {"from_0": 6, "from_4": 2}
    ]
    moments = state.opt_state["from_0"][0].mu
    assert moments.keys() == {"decoder_tokens", "decoder_positions", "lm_head"}
    assert float(moments["lm_head"]["table"][0, 0]) == 8
    assert state.opt_state["from_4"][0].mu.keys() == {"decoder"}
