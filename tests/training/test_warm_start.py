"""What a warm start reads, reports and refuses; and the loop that begins with it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter

import jax
import numpy as np
import pytest

from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import loop, warm_start_report
from alexatm_jax.training.checkpoint import CheckpointError, read_provenance
from alexatm_jax.training.leaf_reading import any_layer
from alexatm_jax.training.warm_start import WarmStart, check_same_start, prepare

ENCODER = ("encoder_tokens/", "encoder_positions/", "encoder_token_types/", "encoder/")


@pytest.fixture(scope="module")
def whole(tiny, write_checkpoint, tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("whole"), tiny(), sha256="abc"))


@pytest.fixture(scope="module")
def encoder(tiny, write_checkpoint, tmp_path_factory):
    """A bfloat16 encoder alone, its layers unrolled, with 12 decoder layers on paper."""
    model = tiny(
        scan_layers=False, param_dtype="bfloat16", num_decoder_layers=12, decoder_num_heads=2
    )
    folder = tmp_path_factory.mktemp("encoder")
    return str(write_checkpoint(folder, model, keep=lambda path: path.startswith(ENCODER)))


def sources(start) -> dict[str, str]:
    return {read.name: read.source for read in start.reads}


@pytest.mark.parametrize("scan_layers", [True, False])
def test_the_papers_start_takes_the_encoder_and_copies_its_table(tiny, encoder, scan_layers):
    start = prepare(WarmStart(encoder, "encoder_and_embeddings"), tiny(scan_layers=scan_layers))
    read = sources(start)
    tables = {"decoder_tokens/table", "lm_head/table"}
    assert {name: read.pop(name) for name in tables} == dict.fromkeys(
        tables, "encoder_tokens/table"
    )
    assert read == {name: name for name in start.here if name.startswith(ENCODER)}
    assert read.keys() == start.there.keys()
    assert start.notes == ()


@pytest.mark.parametrize(
    ("tying", "read", "notes"),
    [
        ({"share_embeddings": True}, {"lm_head/table"}, ["share_embeddings"]),
        ({"tie_lm_head": True}, {"decoder_tokens/table"}, ["decoder_tokens/table the LM head"]),
        (
            {"share_embeddings": True, "tie_lm_head": True},
            set(),
            ["share_embeddings", "encoder_tokens/table the LM head"],
        ),
    ],
    ids=str,
)
def test_copies_into_tables_that_are_tied_fall_away(tiny, encoder, tying, read, notes):
    start = prepare(WarmStart(encoder, "encoder_and_embeddings"), tiny(**tying))
    assert {name for name, source in sources(start).items() if name != source} == read
    assert len(start.notes) == len(notes)
    for note, part in zip(start.notes, notes, strict=True):
        assert part in note
    assert f"note         {start.notes[0]}" in "\n".join(warm_start_report.as_lines(start))


@pytest.mark.parametrize(
    "copies",
    [
        "model",
        "encoder_and_embeddings",
        ["encoder/layer_1/.*", ("lm_head/.*", "encoder_tokens/table")],
    ],
    ids=str,
)
def test_the_report_names_every_leaf_once(tiny, whole, copies):
    start = prepare(WarmStart(whole, copies), tiny())
    report = json.loads(json.dumps(warm_start_report.as_json(start)))
    read = [entry["leaf"] for entry in report["read"]]
    assert Counter(read + report["initialised"]) == Counter([*start.here])
    used = {entry["from"] for entry in report["read"]}
    assert Counter([*used, *report["ignored"]]) == Counter([*start.there])
    assert report["copies"] == json.loads(json.dumps(copies))
    assert report["checkpoint"] == f"{whole}/checkpoints/0"


def test_the_log_has_a_line_for_every_kind_of_leaf(tiny, encoder):
    model = tiny(vocab_size=24, max_positions=6, num_decoder_layers=3)
    start = prepare(WarmStart(encoder, "encoder_and_embeddings", rows="prefix"), model)
    head, *lines = warm_start_report.as_lines(start)
    sizes = [int(size.replace(",", "")) for size in re.findall(r"[\d,]+(?= (?:par|in|ig))", head)]
    total = sum(np.prod(part.shape, dtype=int) for part in start.here.values())
    assert sizes[0] + sizes[1] == total and sizes[2] == 0
    assert "vocabulary: unknown there" in head
    kernel = "encoder/layer_*/feed_forward/in/kernel [8, 16] bfloat16 -> float32, layers 0-1"
    table = "[24, 8] bfloat16 -> float32, 20 rows of 20 there and 24 here"
    for line in (
        f"  read         {kernel}",
        f"  read         lm_head/table from encoder_tokens/table {table}",
        "  read         encoder_positions/table [6, 8] bfloat16 -> float32, "
        "6 rows of 8 there and 6 here",
        "  initialised  decoder/layer_*/cross_attention/out/bias [8], layers 0-2",
    ):
        assert line in lines
    kinds = {any_layer(name) for name in start.here}
    assert len(lines) == len(kinds)


def refusal(setting: WarmStart, model) -> list[str]:
    with pytest.raises(ValueError, match="does not fit this model") as refused:
        prepare(setting, model)
    head, *problems, remedy = str(refused.value).splitlines()
    assert "checkpoints/0" in head and "change WarmStart.copies" in remedy
    return [problem.strip() for problem in problems]


def test_all_that_is_wrong_is_listed_at_once(tiny, whole):
    copies = [
        "encoder/.*",
        "encoder/layer_1/final.*",
        "encoder/layer_[01]/feed_forward_norm/.*",
        ("decoder/(layer_.)/self_attention_norm/(.*)", r"encoder/\1/norm/\2"),
        ("lm_head/table", r"\2"),
        ("decoder_positions/table", "encoder_positions/table"),
        ("decoder/final_norm/scale", "decoder/layer_0/feed_forward/in/bias"),
    ]
    model = tiny(num_encoder_layers=1, norm="published", activation="relu")
    problems = refusal(WarmStart(whole, copies), model)
    wanted = [
        "'encoder/layer_1/final.*' matches no leaf here; names begin with decoder, decoder_p",
        "'encoder/layer_[01]/feed_forward_norm/.*' matches encoder/layer_*/feed_forward_norm/bias, "
        "as 'encoder/.*' does",
        "'encoder/.*' matches encoder/layer_*/feed_forward/in/kernel: there, not here",
        "reads encoder/layer_*/norm/scale (2 layers): not there",
        r"'\\2' is no template for 'lm_head/table': invalid group reference 2",
        "decoder_positions/table from encoder_positions/table: [8, 8] there, [10, 8] here; "
        "rows = 'prefix' takes",
        "decoder/final_norm/scale from decoder/layer_*/feed_forward/in/bias: [16] there, [8] here",
        "ModelConfig.norm is 'standard' there and 'published' here",
        "ModelConfig.activation is 'gelu' there and 'relu' here",
    ]
    for part in wanted:
        assert any(part in problem for problem in problems), part
    assert len(problems) < 60


@pytest.mark.parametrize(
    ("changes", "copies", "parts"),
    [
        ({"num_encoder_layers": 1}, "model", ["encoder/layer_*/self_attention/out/bias: there"]),
        ({"num_encoder_layers": 3}, "encoder", ["encoder/layer_*/self_attention/out/bias: not"]),
        ({"tie_lm_head": True}, "model", ["lm_head/table: there, not here"]),
        ({"num_heads": 2}, "encoder", ["query/kernel: [8, 4, 2] there, [8, 2, 4] here (2 lay"]),
        ({"d_model": 16}, "encoder", ["encoder_tokens/table: [20, 8] there, [20, 16] here"]),
        ({"vocab_size": 24}, "model", ["lm_head/table: [20, 8] there, [24, 8] here; rows ="]),
        ({"token_types": 2}, "encoder", ["token_types/table: [1, 8] there, [2, 8] here; rows ="]),
        ({"norm_epsilon": 1e-5}, ["encoder/.*"], ["norm_epsilon is 1e-06 there and 1e-05 here"]),
        ({"scale_embeddings": True}, "encoder", ["scale_embeddings is False there"]),
        ({"activation": "silu"}, [".*/feed_forward/.*"], ["activation is 'gelu' there"]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(tiny, whole, changes, copies, parts):
    problems = refusal(WarmStart(whole, copies), tiny(**changes))
    for part in parts:
        assert any(part in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"num_decoder_layers": 5, "decoder_num_heads": 2, "decoder_d_ff": 32}, "encoder"),
        ({"norm": "published", "activation": "relu"}, [".*_tokens/table", "lm_head/.*"]),
        ({"activation": "relu", "scale_embeddings": True}, [".*/self_attention/.*"]),
        ({"num_encoder_layers": 1}, ["encoder/layer_0/.*", "encoder/final_norm/.*"]),
        ({"dropout_rate": 0.5, "position_init": "sinusoid", "remat": "full"}, "model"),
        ({"dtype": "bfloat16", "param_dtype": "bfloat16", "scan_layers": False}, "model"),
    ],
    ids=str,
)
def test_what_leaves_no_other_meaning_is_allowed(tiny, whole, changes, copies):
    assert prepare(WarmStart(whole, copies), tiny(**changes)).reads


def test_a_decoder_is_missing_from_an_encoder(tiny, encoder):
    problems = refusal(WarmStart(encoder, "model"), tiny())
    assert "'.*' reads decoder/layer_*/self_attention/key/bias (2 layers): not there" in problems


def test_token_tables_are_of_one_vocabulary(tiny, whole, encoder):
    start = prepare(WarmStart(whole), tiny())
    start.check_vocabulary("abc")
    assert warm_start_report.as_json(start)["vocabulary"] == "the same"
    with pytest.raises(ValueError, match="SHA-256 abc; this run's is def, where an id is another"):
        start.check_vocabulary("def")
    without = prepare(WarmStart(whole, ["encoder/.*"]), tiny())
    without.check_vocabulary("def")
    assert "no token table" in warm_start_report.as_json(without)["vocabulary"]
    prepare(WarmStart(encoder, "encoder"), tiny()).check_vocabulary("def")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint_path": ""}, "checkpoint_path is empty; give"),
        ({"copies": "encode"}, r"copies is 'encode'; choose one of \('model', 'encoder'"),
        ({"copies": []}, r"copies is \[\]; choose one"),
        ({"copies": [("a", "b", "c")]}, r"holds \('a', 'b', 'c'\); each is a pattern"),
        ({"copies": [("a", 3)]}, r"holds \('a', 3\); each"),
        ({"copies": [3]}, "holds 3; each"),
        ({"copies": ["encoder/(.*"]}, r"'encoder/\(\.\*', which is no regular expression: missing"),
        ({"rows": "any"}, r"rows is 'any'; choose one of \('equal', 'prefix'\)"),
    ],
    ids=str,
)
def test_a_setting_checks_itself(fields, message):
    with pytest.raises(ValueError, match=message):
        WarmStart(**({"checkpoint_path": "there"} | fields))


def test_a_checkpoint_must_be_there_and_ours(tiny, tmp_path, whole):
    with pytest.raises(CheckpointError, match="no checkpoint at .*/none"):
        prepare(WarmStart(str(tmp_path / "none")), tiny())
    for item in ("params", "provenance"):
        copy = tmp_path / item
        shutil.copytree(whole, copy)
        for path in (copy / "checkpoints" / "0" / item).glob("*META*"):
            path.unlink()
        for path in (copy / "checkpoints" / "0" / item).glob("metadata"):
            path.unlink()
        with pytest.raises(CheckpointError, match=f"checkpoint 0 in .* has no readable {item}"):
            prepare(WarmStart(str(copy)), tiny())


def test_a_run_that_goes_on_keeps_the_start_it_had(whole):
    setting = WarmStart(whole, ["encoder/.*", ("a", "b")])
    had = json.loads(json.dumps(setting.as_json() | {"checkpoint": "whole/checkpoints/0"}))
    check_same_start(None, None, "run")
    check_same_start(had, None, "run")
    check_same_start(had, WarmStart(whole, ("encoder/.*", ("a", "b"))), "run")
    for found, asked in (
        (None, setting),
        (had, WarmStart(whole)),
        (had, dataclasses.replace(setting, checkpoint_path="elsewhere")),
        (had, dataclasses.replace(setting, rows="prefix")),
    ):
        with pytest.raises(ValueError, match="run was begun .*only a fresh run can start so: take"):
            check_same_start(found, asked, "run")


class Stopped(Exception):
    """What the reader raises in the place of a kill."""


@pytest.fixture
def run(tiny, adamw, make_batch):
    """Trains 4 steps from a warm start, a checkpoint every 2; stops before a batch's index."""

    def train(folder, start, stop_before=None):
        def open_reader(phase, state, crossing):
            index = 0 if state is None else state["next"]
            while index != stop_before:
                index += 1
                yield make_batch(index - 1), {"next": index}
            raise Stopped

        config = loop.TrainingConfig(
            4, adamw(1e-6), num_microbatches=2, log_period_steps=1, checkpoint_period_steps=2
        )
        mesh = Partitioning().make_mesh(jax.devices()[:1])
        phases = config.resolved_phases(tiny().config, 8, 6, 7)
        about = {"warm_start": start.provenance if start else None}
        return loop.train(
            tiny(), config, phases, Partitioning(), mesh, open_reader, folder, about,
            warm_start=start,
        )  # fmt: skip

    return train


def losses(folder) -> list[float]:
    return [json.loads(row)["loss"] for row in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_goes_on_and_reads_its_source_no_more(
    tiny, whole, run, values_of, values_by_layer, tmp_path
):
    source = tmp_path / "source"
    shutil.copytree(whole, source)
    start = prepare(WarmStart(str(source)), tiny())
    wanted = run(tmp_path / "unbroken", start)
    with pytest.raises(Stopped):
        run(tmp_path / "killed", start, stop_before=3)
    shutil.rmtree(source)
    state = run(tmp_path / "killed", start)
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    assert losses(tmp_path / "killed") == losses(tmp_path / "unbroken")
    assert read_provenance(tmp_path / "killed")["warm_start"] == start.provenance
    # The learning rate is tiny, so it still stands where it began.
    jax.tree.map(
        lambda value, began: np.testing.assert_allclose(value, began, atol=1e-5),
        values_by_layer(state.params),
        values_of(tiny()),
    )
