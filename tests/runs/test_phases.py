"""Phases through the binary: freezing, batch size, lengths and mixture change in one run."""

from __future__ import annotations

import json
import shutil

import pytest

from alexatm_jax import main
from alexatm_jax.preflight import Refusal
from alexatm_jax.training import checkpoint

PHASED = """
from __gin__ import dynamic_registration
from alexatm_jax.training import phases
from alexatm_jax.training import loop
include 'tiny.gin'
include 'runs/frozen_encoder.gin'
THAW_STEP = 3
thawed/phases.Phase:
  batch_size = 16
  source_length = 24
  target_length = 40
  rate_factors = {'*_clm': 4.0}
TRAIN_STEPS = 5
loop.TrainingConfig.checkpoint_period_steps = 100
"""


@pytest.fixture(scope="module")
def execute(tiny):
    """Trains in phases into a folder."""
    (tiny.folder / "phased.gin").write_text(PHASED)

    def train(run, **bindings):
        given = [f"{name.replace('__', '.')}={value!r}" for name, value in bindings.items()]
        given.append(f"MODEL_DIR={str(run)!r}")
        main.execute("train", ["phased.gin"], given, [str(tiny.folder)])

    return train


@pytest.mark.slow
def test_a_run_in_phases_goes_on_from_where_they_meet(tiny, execute, tmp_path):
    execute(tmp_path / "whole")
    rows = tiny.losses(tmp_path / "whole")
    assert [row["step"] for row in rows] == [2, 3, 4, 5]
    assert rows[1]["decoder_tokens"] <= 8 * 32 < 16 * 40 * 0.7 < rows[2]["decoder_tokens"]
    folder, _ = checkpoint.locate(tmp_path / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["3", "5"]
    read = json.loads((tmp_path / "whole" / "data_statistics.json").read_text())["tasks"]
    assert 0.6 < read["tiny_clm"]["expected"] < 0.86  # 0.6 of the first tokens, 6 / 7 of the rest

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "5")
    execute(tmp_path / "again")
    assert tiny.losses(tmp_path / "again") == rows
    ends = [checkpoint.read_reader_state(tmp_path / name) for name in ("whole", "again")]
    assert ends[0] == ends[1] and ends[0]["step"] == 5


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"thawed/Phase__batch_size": 6}, "^phase 2 of 2, steps 3-5: 6 rows"),
        ({"thawed/Phase__target_length": 65}, "^phase 2 of 2, steps 3-5: .*'targets'. is 65 tok"),
        ({"thawed/Phase__rate_factors": {"*_clw": 2.0}}, "^phase 2 of 2, steps 3-5: rate_factors"),
        ({"frozen/Phase__frozen": ["lm_heat"]}, "from step 0 freezes 'lm_heat', which no model"),
        ({"THAW_STEP": 5}, "start at the steps 0, 5 of 5"),
    ],
    ids=str,
)
def test_a_phase_that_cannot_be_is_refused_before_any_work(execute, tmp_path, bindings, message):
    with pytest.raises(Refusal, match=message):
        execute(tmp_path / "run", **bindings)
    assert not (tmp_path / "run").exists()
