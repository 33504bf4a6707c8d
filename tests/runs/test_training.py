"""Training through the binary: on from where it stood, without TensorFlow, on any mesh."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from alexatm_jax.data import cache
from alexatm_jax.training import checkpoint

ALONE = """
import json, sys
sys.modules.update(dict.fromkeys(
    ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "babel")))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import Tiny
tiny = Tiny(Path(sys.argv[2]))
mesh = {f"Partitioning__{axis}": 1 for axis in ("data", "fsdp", "tensor")}
run = f"{tiny.folder}/alone"
tiny.execute("train", MODEL_DIR=run, **mesh)
tiny.execute("eval", MODEL_DIR=run, EVAL_OUTPUT_DIR=f"{run}/eval", **mesh)
print(json.dumps(tiny.batch_hashes()))
"""


@pytest.fixture(scope="module")
def alone(tiny) -> tuple[Path, str]:
    """A run and its evaluation on one device, where no data library can be imported."""
    arguments = [str(Path(__file__).parent), str(tiny.folder)]
    process = tiny.start(["-c", ALONE, *arguments], num_devices=1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return tiny.folder / "alone", output


def test_the_first_run_leaves_all_that_is_promised(tiny):
    names = {path.name for path in tiny.run.iterdir()}
    files = {"config.gin", "run.json", "metrics.jsonl", "losses.png"}
    assert names >= files | {"checkpoints", "tensorboard"}
    assert (tiny.run / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert list((tiny.run / "tensorboard").glob("events.*"))
    rows = tiny.losses(tiny.run)
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"loss/denoising", "loss/clm"} < set(rows[0])


def test_checkpoints_say_what_they_were_made_with(tiny):
    folder, step = checkpoint.locate(tiny.run)
    assert step == 20
    provenance = checkpoint.read_provenance(folder)
    assert provenance["vocabulary_sha256"] == cache.read_vocabulary(tiny.cache).sha256
    assert provenance["model"]["d_model"] == 16
    assert provenance["gin"] == (tiny.run / "config.gin").read_text()
    assert checkpoint.read_reader_state(folder)["step"] == 20


def test_the_cache_holds_the_documents_once_for_both_tasks(tiny):
    spec = cache.read_mixture(tiny.cache, "tiny_mixture")
    rates = {task.name: (task.corpus, task.rate) for task in spec.tasks}
    assert rates == {"tiny_denoising": ("tiny", 0.4), "tiny_clm": ("tiny", 0.6)}
    assert cache.read_corpus(tiny.cache, "tiny").num_documents == 40


def test_a_run_killed_and_started_again_for_more_steps_equals_an_unbroken_one(tiny):
    run, rows = tiny.folder / "killed", random.randint(1, 4)
    flags = ["--run_mode=train", "--gin_file=tiny.gin", f"--gin_search_paths={tiny.folder}"]
    command = ["-m", "alexatm_jax.main", *flags, f"--gin.MODEL_DIR={run}"]
    first = tiny.start([*command, "--gin.TRAIN_STEPS=14"], num_devices=8)
    metrics = run / "metrics.jsonl"
    while first.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= rows:
            first.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    output, _ = first.communicate()
    assert first.returncode == -signal.SIGKILL, output
    assert 0 < len(tiny.losses(run)) < 7
    second = tiny.start(command, num_devices=8)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert tiny.losses(run) == tiny.losses(tiny.run), f"killed after {rows} rows"


def test_batches_are_the_same_without_tensorflow_and_on_one_device(tiny, alone):
    _, output = alone
    hashes = json.loads(output.splitlines()[-1])
    assert len(set(hashes)) == 5
    assert hashes == tiny.batch_hashes()


def test_one_device_and_eight_agree(tiny, alone):
    run, _ = alone
    one, eight = tiny.losses(run), tiny.losses(tiny.run)
    for row_of_one, row_of_eight in zip(one, eight, strict=True):
        assert row_of_one == pytest.approx(row_of_eight, rel=1e-4)


def test_evaluation_runs_without_tensorflow(alone):
    run, output = alone
    assert "tiny_units" in output
    assert (run / "eval" / "results.jsonl").exists()
