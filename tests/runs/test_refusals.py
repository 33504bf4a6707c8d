"""Bad input to a run mode: refused with what, where and remedy, uncompiled and unwritten."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from alexatm_jax import main
from alexatm_jax.data.vocabulary import train as train_vocabulary
from alexatm_jax.preflight import Refusal
from alexatm_jax.runs import training

MESH_1_4_2 = {"Partitioning__data": 1, "Partitioning__fsdp": 4}


@pytest.fixture(scope="module", autouse=True)
def registered(tiny, tiny_tasks):
    remove = tiny_tasks()
    yield
    remove()


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny run that may be broken."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny.folder, folder, ignore=shutil.ignore_patterns("tensorboard"))
    gin = (folder / "tiny.gin").read_text().replace(str(tiny.folder), str(folder))
    (folder / "tiny.gin").write_text(gin)
    return type(tiny)(folder)


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder with its hash."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(copy, compilations):
    """Runs a mode on the copy and gives the message of its refusal, having checked the rest."""

    def run(mode: str, **bindings: object) -> str:
        before, compiled = contents(copy.folder), len(compilations)
        with pytest.raises(Refusal) as raised:
            copy.execute(mode, **bindings)
        assert compilations[compiled:] == []
        assert contents(copy.folder) == before
        return str(raised.value)

    return run


def check(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("bindings", "parts"),
    [
        ({"MIXTURE_OR_TASK_NAME": "tiny_mixtur"}, ["'tiny_mixtur'", "nearest", "tiny_mixture,"]),
        ({"EVALUATION_TASKS": ["tiny_unit"]}, ["'tiny_unit'", "nearest", "tiny_units,"]),
        ({"BATCH_SIZ": 8}, ["--gin.BATCH_SIZ:", "nearest: BATCH_SIZE"]),
        ({"Partitioning__data": 3}, ["data=3", "8 are here", "change Partitioning"]),
        ({"BATCH_SIZE": 6, "run__train__num_streams": 2}, ["6 rows", "multiple"]),
        ({"run__train__num_streams": 3}, ["3 streams", "8 rows", "num_streams must"]),
        ({"TrainingConfig__num_microbatches": 3}, ["BATCH_SIZE 8", "3 microbatches", "change"]),
        (
            {"TASK_FEATURE_LENGTHS": {"inputs": 65, "targets": 32}},
            ["TASK_FEATURE_LENGTHS['inputs'] is 65", "64 positions", "shorten"],
        ),
        ({"TASK_FEATURE_LENGTHS": {"inputs": 32}}, ["names ['inputs']", "'targets': T"]),
        ({"run__train__packing": "tight"}, ["'tight'", "isolated"]),
        ({"ModelConfig__norm": "batch"}, ["ModelConfig.norm is 'batch'", "choose one of"]),
        ({"ModelConfig__d_ff": "wide"}, ["ModelConfig.d_ff is 'wide'", "must be int"]),
        ({"Partitioning__data": "two"}, ["Partitioning.data is 'two'", "must be int"]),
        ({"ModelConfig__num_heads": 3}, ["d_model 16", "3 heads", "divisors"]),
        (
            MESH_1_4_2 | {"ModelConfig__d_model": 10},
            ["cannot be placed", "10 over fsdp = 4"],
        ),
        ({"ModelConfig__vocab_size": 256}, ["300 pieces", "256 rows", "raise ModelConfig"]),
        ({"DataConfig__max_documents": 10, "CACHE_DIR": "{folder}/new"}, ["40 documents", "cache"]),
    ],
    ids=str,
)
def test_a_run_that_cannot_begin_leaves_no_folder(refused, copy, bindings, parts):
    bindings = {
        name: value.format(folder=copy.folder) if isinstance(value, str) else value
        for name, value in bindings.items()
    }
    message = refused("train", MODEL_DIR=f"{copy.folder}/new_run", **bindings)
    check(message, *parts)


@pytest.mark.parametrize(
    ("bindings", "parts"),
    [
        ({"ModelConfig__d_ff": 64}, ["model.d_ff: 32 there, 64 here", "another MODEL_DIR"]),
        ({"BATCH_SIZE": 16}, ["batch_size was 8, is 16", "begin a new run"]),
        ({"train__data_seed": 1}, ["seed was 0, is 1", "begin a new run"]),
        ({"AdamW__moment_dtype": "bfloat16"}, ["not of these phases and this opt", "warm_start"]),
    ],
    ids=str,
)
def test_a_run_does_not_go_on_from_another_ones_checkpoint(refused, bindings, parts):
    check(refused("train", TRAIN_STEPS=30, **bindings), *parts)


def test_a_run_does_not_go_on_in_other_phases(refused, copy):
    gin = copy.folder / "tiny.gin"
    gin.write_text(f"{gin.read_text()}include 'runs/frozen_encoder.gin'\n")
    message = refused("train", TRAIN_STEPS=30, THAW_STEP=10)
    check(message, "not of these phases", "only here, such as opt_state/from_10/", "warm_start")


def test_model_dir_must_be_writable_and_our_own(refused, copy):
    (copy.folder / "file").touch()
    below = f"{copy.folder}/file/run"
    check(refused("train", MODEL_DIR=below), below, "cannot be written", "choose another")
    (copy.folder / "foreign").mkdir()
    (copy.folder / "foreign" / "thesis.tex").touch()
    message = refused("train", MODEL_DIR=f"{copy.folder}/foreign")
    check(message, "MODEL_DIR", "thesis.tex", "choose another")


def damage_vocabulary_missing(cache: Path) -> None:
    (cache / "vocabulary.model").unlink()


def damage_vocabulary_garbage(cache: Path) -> None:
    (cache / "vocabulary.model").write_bytes(b"no vocabulary")


def damage_vocabulary_other(cache: Path) -> None:
    train_vocabulary(["another text of other words"] * 3, cache / "vocabulary.model", size=290)


def damage_mixture(cache: Path) -> None:
    (cache / "mixtures" / "tiny_mixture.json").write_text('{"mixture": "tiny_mix')


def damage_provenance(cache: Path) -> None:
    (cache / "corpora" / "tiny" / "provenance.json").write_text("")


def damage_records_gone(cache: Path) -> None:
    next((cache / "corpora" / "tiny").glob("documents*")).unlink()


def damage_records_empty(cache: Path) -> None:
    next((cache / "corpora" / "tiny").glob("documents*")).write_bytes(b"")


def damage_records_cut(cache: Path) -> None:
    path = next((cache / "corpora" / "tiny").glob("documents*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_records_garbage(cache: Path) -> None:
    path = next((cache / "corpora" / "tiny").glob("documents*"))
    path.write_bytes(b"\x55" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (damage_vocabulary_missing, ["no vocabulary file", "vocabulary.model", "run_mode=cache"]),
        (damage_vocabulary_garbage, ["vocabulary.model is"]),
        (damage_vocabulary_other, ["vocabulary", "tiny_mixture", "use the cache"]),
        (damage_mixture, ["tiny_mixture.json cannot be read", "remove this cache"]),
        (damage_provenance, ["provenance.json cannot be read", "remove this cache"]),
        (damage_records_gone, ["corpora/tiny", "is missing", "remove this cache"]),
        (damage_records_empty, ["corpora/tiny", "remove this cache"]),
        (damage_records_cut, ["corpora/tiny", "remove this cache"]),
        (damage_records_garbage, ["corpora/tiny", "remove this cache"]),
    ],
)
def test_a_broken_cache_is_named_and_left_alone(refused, copy, damage, parts):
    damage(copy.cache)
    check(refused("train", MODEL_DIR=f"{copy.folder}/new_run"), *parts)


@pytest.mark.parametrize("mode", ["eval", "infer"])
def test_answering_needs_the_vocabulary_too(refused, copy, mode):
    damage_vocabulary_missing(copy.cache)
    check(refused(mode), "no vocabulary file", "vocabulary.model")


@pytest.mark.parametrize("mode", ["train", "eval", "infer"])
def test_a_sound_cache_of_another_vocabulary_does_not_suit_the_checkpoint(refused, copy, mode):
    old = hashlib.sha256((copy.cache / "vocabulary.model").read_bytes()).hexdigest()
    damage_vocabulary_other(copy.cache)
    new = hashlib.sha256((copy.cache / "vocabulary.model").read_bytes()).hexdigest()
    for path in copy.cache.rglob("*.json"):
        path.write_text(path.read_text().replace(old, new))
    message = refused(mode)
    check(message, f"vocabulary_sha256: '{old}' there, '{new}' here", "configuration")


@pytest.mark.parametrize("mode", ["eval", "infer"])
@pytest.mark.parametrize(
    ("bindings", "parts"),
    [
        ({"CHECKPOINT_PATH": "{folder}/none"}, ["no checkpoint at", "/none", "give a run's"]),
        ({"CHECKPOINT_PATH": "{folder}/cache"}, ["no checkpoint at", "/cache", "no whole step"]),
        ({"ModelConfig__d_ff": 64}, ["model.d_ff: 32 there, 64 here"]),
        ({"Partitioning__data": 3}, ["data=3", "8 are here"]),
        ({"DecodingConfig__max_new_tokens": 65}, ["max_new_tokens is 65", "64 positions"]),
        ({"DecodingConfig__batch_size": 0}, ["DecodingConfig.batch_size is 0", "1 or more"]),
        ({"INFER_OUTPUT_DIR": "{folder}/tiny.gin/a", "EVAL_OUTPUT_DIR": "{folder}/tiny.gin/a"},
         ["tiny.gin/a cannot be written", "choose another"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(refused, copy, mode, bindings, parts):
    bindings = {
        name: value.format(folder=copy.folder) if isinstance(value, str) else value
        for name, value in bindings.items()
    }
    check(refused(mode, **bindings), *parts)


@pytest.mark.parametrize(
    ("bindings", "parts"),
    [
        ({"tasks": ("unit_*",)}, ["no evaluation task matches 'unit_*'", "tiny_units"]),
        ({"shots": (3,)}, ["3 shots", "the pool has 2", "ask for fewer"]),
        ({"shots": (0, 0)}, ["shots are (0, 0)", "different"]),
        ({"modes": ("generat",)}, ["'generat' is neither generate nor rank"]),
        ({"max_items": 0}, ["max_items is 0", "1 or more"]),
    ],
    ids=str,
)
def test_evaluation_that_contradicts_its_tasks_is_refused(refused, bindings, parts):
    check(refused("eval", **{f"evaluate__{k}": v for k, v in bindings.items()}), *parts)


def test_a_task_without_choices_cannot_be_ranked(refused, copy):
    path = copy.cache / "evaluation" / "tiny_units.json"
    payload = json.loads(path.read_text())
    for item in payload["items"]:
        del item["choices"], item["answer"]
    path.write_text(json.dumps(payload))
    check(refused("eval"), "tiny_units", "none of the items", "leave rank out")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["prompts.txt"]),
        (b"", ["holds no prompt", "write one a line"]),
        (b" \n\n", ["holds no prompt", "write one a line"]),
        (b"\xff\xfe", ["is not UTF-8", "convert it"]),
        (b"[CLM] short\n" + b"7 km " * 200, ["a prompt has", "1 and 64 fit", "shorten"]),
    ],
    ids=["absent", "empty", "blank", "not UTF-8", "too long"],
)
def test_prompts_that_cannot_be_read_are_refused(refused, copy, content, parts):
    path = copy.folder / "prompts.txt"
    path.unlink() if content is None else path.write_bytes(content)
    check(refused("infer"), *parts)


def test_a_damaged_checkpoint_is_refused(refused, copy):
    for item in ("params", "provenance"):
        shutil.rmtree(copy.run / "checkpoints" / "20" / item)
        check(refused("infer"), "checkpoint", "20")


def test_a_run_whose_first_checkpoint_was_cut_short_begins_again(copy, monkeypatch):
    run = copy.folder / "new_run"
    (run / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    reached = []
    monkeypatch.setattr(training.loop, "train", lambda *given, **named: reached.append(given))
    monkeypatch.setattr(training, "plot_losses", lambda *paths: None)
    copy.execute("train", MODEL_DIR=str(run))
    assert len(reached) == 1


def test_the_cache_alone_does_not_make_a_folder_foreign(copy, monkeypatch):
    shutil.copytree(copy.cache, copy.folder / "demo" / "cache")
    monkeypatch.setattr(training.loop, "train", lambda *given, **named: None)
    monkeypatch.setattr(training, "plot_losses", lambda *paths: None)
    demo = f"{copy.folder}/demo"
    copy.execute("train", MODEL_DIR=demo, CACHE_DIR=f"{demo}/cache")
    assert (copy.folder / "demo" / "run.json").exists()


def test_modes_that_no_file_configures_are_refused(tiny):
    with pytest.raises(Refusal, match="interactive, and no gin file binds its model, .*gin/runs/"):
        main.execute("interactive", ["tiny.gin"], [], [str(tiny.folder)])
