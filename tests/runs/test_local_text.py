"""Text files of one's own, from gin to batches: cached by the recipe, read, and counted."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from alexatm_jax import main
from alexatm_jax.data import cache, pipeline
from alexatm_jax.data.recipe import LocalText, TextRecipe
from alexatm_jax.data.vocabulary import train
from alexatm_jax.preflight import Refusal
from alexatm_jax.runs.caching import DataConfig, open_cache

GERMAN = [f"Am {n}. Mai kamen {n + 2} Leute nach Köln. Es regnete sehr!" for n in range(60)]
JAPANESE = [f"{n}月に京都へ行きました。雨でした。" for n in range(1, 31)]
FORMS = ("spoken", "written")
QUESTION = "Wer sagte, dass am 7. Mai noch vor dem Regen neun Leute aus Bonn nach Köln kamen?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text in two languages, a vocabulary and an evaluation set."""
    made = tmp_path_factory.mktemp("mine")
    (made / "de.txt").write_text("\n".join([*GERMAN, "", f"So! {QUESTION} Niemand."]) + "\n")
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in JAPANESE]
    (made / "ja.jsonl").write_text("\n".join([*rows, '{"title": "no text"}']) + "\n")
    (made / "questions.txt").write_text(QUESTION + "\n")
    train([*GERMAN, *JAPANESE], made / "mine.model", size=400)
    return made


def bindings(folder, **others):
    values = {
        "MIXTURE_OR_TASK_NAME": "mine",
        "CACHE_DIR": str(folder / "cache"),
        "VOCABULARY": str(folder / "mine.model"),
        "TEXT": {"de": str(folder / "de.txt"), "ja": str(folder / "ja.jsonl")},
        "BENCHMARKS": {"questions": str(folder / "questions.txt")},
        "caching.DataConfig.task_modules": [],
    } | others
    return [f"{name}={value!r}" for name, value in values.items()]


@pytest.fixture(scope="module")
def log(folder):
    """Caches the text; gives what was logged."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    package = logging.getLogger("alexatm_jax")
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        main.execute("cache", ["runs/data.gin", "runs/local_text.gin"], bindings(folder))
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
    return "\n".join(lines)


def test_text_is_cached_by_the_recipe(folder, log):
    spec = cache.read_mixture(folder / "cache", "mine")
    corpora = {f"mine_{language}_{form}" for language in ("de", "ja") for form in FORMS}
    assert {task.corpus for task in spec.tasks} == corpora
    counts = cache.read_provenances(folder / "cache", spec.corpora)
    german, japanese = counts["mine_de_written"], counts["mine_ja_written"]
    # 60 documents of 2 sentences, and "So! Niemand."
    assert (german.num_documents, german.num_sentences) == (61, 122)
    assert german.dropped == {"questions": 1} and german.problems == {"empty": 1}
    assert (japanese.num_sentences, japanese.problems) == (60, {"no_text": 1})
    wanted = 122**0.5 / (122**0.5 + 60**0.5)
    got = sum(task.rate for task in spec.tasks if task.labels["language"] == "de")
    assert got == pytest.approx(wanted)


def test_the_log_shows_the_mixture_and_what_was_left_out(folder, log):
    assert f"{folder / 'ja.jsonl'}:31" in log or "ja.jsonl, line 31" in log
    assert "58.78 %" in log and "41.22 %" in log
    assert "denoising" in log


def test_the_spoken_form_has_no_capitals_or_stops(folder, log):
    vocabulary = cache.read_vocabulary(folder / "cache")
    spoken = cache.read_corpus(folder / "cache", "mine_de_spoken").source
    assert vocabulary.decode(spoken[0]) == "am 0 mai kamen 2 leute nach köln es regnete sehr"


def test_batches_are_read_from_it(folder, log):
    config = pipeline.ReaderConfig(8, 64, 64, seed=0, num_streams=4)
    reader = pipeline.open_reader(folder / "cache", "mine", config)
    for _ in range(20):
        next(reader)
    assert reader.statistics()["decoder_fill"] > 0.95


def test_text_is_not_read_more_often_than_allowed(tiny, folder, log):
    with pytest.raises(
        Refusal, match=r"read mine (de|ja) (spoken|written) \d+\.\d times.*allows 1"
    ):
        tiny.execute(
            "train",
            MIXTURE_OR_TASK_NAME="mine",
            CACHE_DIR=str(folder / "cache"),
            MODEL_DIR=str(folder / "run"),
            EVALUATION_TASKS=[],
            run__train__max_epochs=1,
            TRAIN_STEPS=1000,
        )
    assert not (folder / "run" / "checkpoints").exists()


def test_a_cache_made_by_another_recipe_is_not_taken_for_this_one(folder, log):
    sources = [LocalText("mine", {"de": "de.txt", "ja": "ja.jsonl"})]
    data = DataConfig("mine", str(folder / "cache"), recipe=TextRecipe(sources, "mine.model"))
    assert len(open_cache(data).tasks) == 8
    recipe = TextRecipe(sources, "mine.model", alpha=0.3)
    with pytest.raises(Refusal, match="made by another recipe: 8 tasks differ"):
        open_cache(dataclasses.replace(data, recipe=recipe))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"TEXT": {"xx": "de.txt"}}, "text in .'xx'.; the known languages are ar, de"),
        ({"TEXT": {"ja": "missing/*.txt"}}, "missing"),
        ({"VOCABULARY": "none.model"}, "none.model.*vocabulary train"),
        ({"BENCHMARKS": {"questions": "none.tsv"}}, "none.tsv"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(folder, tmp_path, wrong, message):
    wrong = {"CACHE_DIR": str(tmp_path / "cache")} | wrong
    wrong["TEXT"] = {"de": str(folder / "de.txt")} | wrong.get("TEXT", {})
    with pytest.raises(Refusal, match=message):
        main.execute("cache", ["runs/data.gin", "runs/local_text.gin"], bindings(folder, **wrong))
    assert not [path for path in tmp_path.rglob("documents-*")]
