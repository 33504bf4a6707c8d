"""Checks before work: each writes nothing and says what to change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax import preflight
from alexatm_jax.model import ModelConfig
from alexatm_jax.partitioning import Partitioning

MODEL = ModelConfig(64, 8, 2, 16, 1, 1, max_positions=32)


def test_refusing_turns_what_input_causes_into_a_refusal():
    for error in (ValueError("a"), FileNotFoundError("a"), ImportError("a")):
        with pytest.raises(preflight.Refusal, match="a"), preflight.refusing():
            raise error
    with pytest.raises(ZeroDivisionError), preflight.refusing():
        raise ZeroDivisionError


def test_a_folder_may_be_absent_and_stays_so(tmp_path):
    preflight.check_writable(tmp_path / "a" / "b")
    preflight.check_model_dir(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_path_through_a_file_cannot_be_written(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file.* cannot be written .*choose another folder"):
        preflight.check_writable(tmp_path / "file" / below)


def test_a_claimed_folder_is_recognised_whatever_it_holds(tmp_path):
    run = tmp_path / "deep" / "run"
    preflight.claim_model_dir(run, "m")
    (run / "notes.txt").touch()
    preflight.check_model_dir(run)
    preflight.claim_model_dir(run, "another")
    assert json.loads((run / preflight.RUN_MARKER).read_text()) == {"mixture": "m"}


def test_a_foreign_folder_is_named_with_what_it_holds(tmp_path):
    for name in "abcdefg":
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"MODEL_DIR {tmp_path} .*: it holds a, b, c, d, e, ...;"):
        preflight.check_model_dir(tmp_path)


@pytest.mark.parametrize("own", ["cache", "data/cache", "."])
def test_the_own_cache_is_not_foreign(tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / own / "corpora").mkdir(parents=True)
    if own == ".":
        with pytest.raises(ValueError, match="it holds corpora"):
            preflight.check_model_dir("run", own=["run"])
    else:
        preflight.check_model_dir("run", own=[Path("run") / own])
        (tmp_path / "run" / "other").touch()
        with pytest.raises(ValueError, match="it holds other;"):
            preflight.check_model_dir("run", own=[Path("run") / own])


@given(batch=st.integers(1, 64), parts=st.integers(1, 8), data=st.integers(1, 8))
def test_batches_must_divide_twice(batch, parts, data):
    mesh = Partitioning(data=data)
    if batch % parts or batch // parts % data:
        with pytest.raises(ValueError, match=f"{batch // parts} rows|BATCH_SIZE {batch}"):
            preflight.check_mesh(mesh, batch, parts, num_devices=data)
    else:
        preflight.check_mesh(mesh, batch, parts, num_devices=data)


@pytest.mark.parametrize("length", [1, 33])
def test_feature_lengths_must_fit_the_positions(length):
    preflight.check_feature_lengths({"inputs": 32, "targets": 2}, MODEL)
    with pytest.raises(ValueError, match=rf"\['targets'\] is {length} .* 32 positions"):
        preflight.check_feature_lengths({"inputs": 32, "targets": length}, MODEL)
    with pytest.raises(ValueError, match="names .*'input'.*give"):
        preflight.check_feature_lengths({"input": 32, "targets": 2}, MODEL)


def test_the_vocabulary_must_fit_the_tables():
    preflight.check_vocabulary_size(64, MODEL)
    with pytest.raises(ValueError, match="65 pieces .* 64 rows .*raise ModelConfig.vocab_size"):
        preflight.check_vocabulary_size(65, MODEL)


HINTS = {"a": int, "b": float | None, "c": bool, "d": list[str]}


@pytest.mark.parametrize(
    "values", [{"a": 1, "b": 2, "c": True}, {"b": None}, {"b": 0.5}, {"d": "anything"}]
)
def test_values_of_the_annotated_type_pass(values):
    preflight.check_types("f", HINTS, values)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({"a": 1.0}, "int"),
        ({"a": True}, "int"),
        ({"a": None}, "int"),
        ({"b": "x"}, "NoneType or float or int"),
        ({"c": 1}, "bool"),
    ],
)
def test_values_of_another_type_are_named(values, kinds):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=rf"f\.{name} is {value!r}, .*; it must be {kinds}\."):
        preflight.check_types("f", HINTS, values)


def test_the_mesh_is_described_for_the_log():
    mesh = Partitioning(data=2, fsdp=2, tensor=2).make_mesh()
    assert preflight.describe_mesh(mesh) == "data 2 x fsdp 2 x tensor 2 on 8 cpu"
