"""Evaluation through the binary: rows, predictions, pictures and a table."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

FIELDS = {"task", "shots", "mode", "language", "metric", "value", "n", "step"}


def read(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def results(tiny) -> Path:
    """Where 0 and 1 shots, generated and ranked, were written."""
    tiny.execute("eval")
    return tiny.folder / "eval"


def test_there_is_a_row_for_every_shot_mode_metric_and_language(results):
    rows = read(results / "results.jsonl")
    assert all(set(row) == FIELDS for row in rows)
    metrics = [("generate", "exact_match"), ("generate", "chrf"), ("rank", "accuracy")]
    expected = {
        (shots, *metric, language)
        for shots, metric, language in itertools.product((0, 1), metrics, ("te", "ja", "all"))
    }
    found = [(row["shots"], row["mode"], row["metric"], row["language"]) for row in rows]
    assert set(found) == expected and len(found) == len(expected)
    for row in rows:
        assert (row["task"], row["step"]) == ("tiny_units", 20)
        assert row["n"] == (6 if row["language"] == "all" else 3)
        assert 0 <= row["value"] <= 100


def test_predictions_say_how_each_answer_came_about(results):
    paths = sorted((results / "predictions").iterdir())
    assert [path.stem for path in paths] == [
        f"tiny_units-{shots}shot-{mode}" for shots in (0, 1) for mode in ("generate", "rank")
    ]
    predictions = [one for path in paths for one in read(path)]
    assert len(predictions) == 2 * 2 * 6
    for one in predictions:
        assert one["prompt"].startswith("[CLM] Sentence: ")
        assert one["prompt"].count("Sentence: ") == 1 + one["shots"] == 1 + len(one["shot_ids"])
        if one["mode"] == "rank":
            assert one["choice"] == min(range(2), key=one["scores"].__getitem__)
            assert one["correct"] == (one["choices"][one["choice"]] == one["target"])
        else:
            assert one["correct"] == (one["prediction"] == one["target"])


def test_means_are_those_of_the_predictions(results):
    for shots in (0, 1):
        ranked = read(results / "predictions" / f"tiny_units-{shots}shot-rank.jsonl")
        (row,) = [
            row
            for row in read(results / "results.jsonl")
            if (row["metric"], row["language"], row["shots"]) == ("accuracy", "all", shots)
        ]
        assert row["value"] == pytest.approx(100 * sum(p["correct"] for p in ranked) / len(ranked))


def test_the_picture_is_drawn(results):
    assert (results / "shots.png").read_bytes().startswith(b"\x89PNG")


def test_an_earlier_step_and_fewer_questions_can_be_asked_for(tiny, capsys):
    output = tiny.folder / "eval_14"
    tiny.execute(
        "eval",
        CHECKPOINT_PATH=f"{tiny.run}/checkpoints/14",
        EVAL_OUTPUT_DIR=str(output),
        evaluate__shots=(0,),
        evaluate__modes=("rank",),
        evaluate__max_items=2,
    )
    rows = read(output / "results.jsonl")
    assert {row["step"] for row in rows} == {14}
    assert [row["n"] for row in rows if row["language"] == "all"] == [2]
    assert "tiny_units" in capsys.readouterr().out
