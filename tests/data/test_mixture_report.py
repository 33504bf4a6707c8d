"""A mixture is told in one table, and what was drawn is compared with it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from alexatm_jax.data import mixture_report
from alexatm_jax.data.cache import MixtureSpec, TaskSpec
from alexatm_jax.data.recipe import LocalText, TextRecipe, language_shares
from alexatm_jax.text.spoken import LANGUAGES

SENTENCES = {"ar": 4, "de": 49, "en": 900, "mr": 1}


@dataclasses.dataclass(frozen=True)
class Counted:
    """What a cached corpus says of itself, as far as it matters here."""

    num_sentences: int
    num_tokens: int


def paper(languages=LANGUAGES) -> TextRecipe:
    """Both sources of the paper, with files that nobody reads."""
    files = dict.fromkeys(languages, "*.txt")
    return TextRecipe(
        [LocalText("wikipedia", files, weight=10), LocalText("mc4", files)], "v.model"
    )


def counted(made: TextRecipe, sentences=SENTENCES) -> dict[str, Counted]:
    """Nine tenths of the sentences are mC4's; tokens per sentence vary; spoken ones are fewer."""
    counts = {}
    for corpus in made.corpora:
        number = sentences[corpus.language] * (900 if corpus.source == "mc4" else 100)
        length = 20 + len(corpus.language + corpus.source) - (corpus.form == "spoken")
        counts[corpus.name] = Counted(number, number * length)
    return counts


def spec_of(made: TextRecipe, counts) -> MixtureSpec:
    shares = made.shares(counts)
    tasks = [
        TaskSpec(
            f"{corpus.name}_{suffix}",
            corpus.name,
            shares[f"{corpus.name}_{suffix}"],
            objective.spec(),
            labels=corpus.labels,
        )
        for corpus in made.corpora
        for suffix, (objective, _) in made.objectives.items()
    ]
    return MixtureSpec("paper", "0" * 64, tuple(tasks))


def test_the_table_tells_96_tasks_in_one_screen():
    sentences = {language: 10**index for index, language in enumerate(LANGUAGES)}
    made = paper()
    counts = counted(made, sentences)
    spec = spec_of(made, counts)
    text = mixture_report.table(spec, counts, target_tokens=1e12)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) < 40
    assert lines[0].startswith("mixture paper: 96 tasks over 48 corpora")
    content = mixture_report.as_json(spec, counts, 1e12)
    assert json.loads(json.dumps(content)) == content
    wanted = language_shares(sentences)
    for language in LANGUAGES:
        row = content["languages"][language]
        assert row["q"] == pytest.approx(wanted[language])
        assert row["sentences"] == 1000 * sentences[language]
        assert row["epochs"] == pytest.approx(row["q"] * 1e12 / row["tokens"])
        assert any(
            line.startswith(language) and f"{100 * row['q']:.2f} %" in line for line in lines
        )
    assert sum(row["p"] for row in content["languages"].values()) == pytest.approx(1)
    assert sum(row["share"] for row in content["texts"]) == pytest.approx(1)
    assert content["objectives"] == pytest.approx({"denoising": 0.8, "clm": 0.2})
    assert "(the paper: 9%)" in text and "(the paper: 91%)" in text
    for row in content["texts"]:
        # Wikipedia's small languages are read most often, for they are sampled up.
        assert row["most"]["language"] == LANGUAGES[0]
        assert row["least"]["language"] == LANGUAGES[-1]
    weights = {(row["source"], row["form"]): row["epochs"] for row in content["texts"]}
    assert weights["wikipedia", "spoken"] > weights["mc4", "spoken"] > weights["mc4", "written"]


def test_a_mixture_without_labels_has_a_table_too():
    tasks = [
        TaskSpec("cldr_denoising", "cldr", 2, {"kind": "denoising"}),
        TaskSpec("cldr_clm", "cldr", 3, {"kind": "clm"}),
    ]
    spec = MixtureSpec("demo", "0" * 64, tuple(tasks))
    text = mixture_report.table(spec, {"cldr": Counted(0, 2_000)}, 4_000)
    assert "language" not in text and "cldr" in text
    content = mixture_report.as_json(spec, {"cldr": Counted(0, 2_000)}, 4_000)
    assert content["objectives"] == {"denoising": 0.4, "clm": 0.6}
    assert content["texts"][0]["epochs"] == 2
    assert ["cldr", "2", "K", "100.00", "%", "2", "2", "2"] in map(str.split, text.splitlines())
    with pytest.raises(ValueError, match=r"corpora \['cldr'\], whose counts are not given"):
        mixture_report.table(spec, {})


def test_phases_draw_what_their_factors_leave_of_a_mixture():
    tasks = [
        TaskSpec(name, "web", rate, {"kind": "clm"})
        for name, rate in zip("abc", (4, 4, 8), strict=True)
    ]
    spec = MixtureSpec("m", "0" * 64, tuple(tasks))

    def shares(*phases) -> dict[str, float]:
        return {task.name: task.rate for task in mixture_report.drawn(spec, phases).tasks}

    assert shares(({}, 7)) == {"a": 0.25, "b": 0.25, "c": 0.5}
    without_c = {"[ab]": 3, "c": 0}
    assert shares((without_c, 7)) == {"a": 0.5, "b": 0.5}
    assert shares(({}, 300), (without_c, 100)) == {"a": 0.3125, "b": 0.3125, "c": 0.375}
    with pytest.raises(ValueError, match="'d', which matches none"):
        shares(({"d": 2}, 7))
    with pytest.raises(ValueError, match="draw no token"):
        shares(({}, 0))


def statistics_of(spec: MixtureSpec, tokens: int, **changed: float) -> dict:
    total = sum(task.rate for task in spec.tasks)
    return {
        "tasks": {
            task.name: {
                "text_tokens": round(tokens * changed.get(task.name, task.rate / total)),
                "expected": task.rate / total,
            }
            for task in spec.tasks
        }
    }


def test_drift_is_told_by_language_source_form_and_objective():
    made = paper(tuple(SENTENCES))
    spec = spec_of(made, counted(made))
    none = mixture_report.drift(statistics_of(spec, 2_000_000), spec)
    assert none.warning is None and abs(none.largest.points) < 0.01
    assert [line.split()[0] for line in none.lines()] == [
        "language",
        "source",
        "form",
        "objective",
    ]
    assert {d.name for d in none.differences} == {
        *SENTENCES,
        *("wikipedia", "mc4", "spoken", "written", "denoising", "clm"),
    }


def test_drift_warns_beyond_a_point_and_a_million_tokens():
    made = paper(tuple(SENTENCES))
    spec = spec_of(made, counted(made))
    starved = {task.name: 0.0 for task in spec.tasks if "_mr_" in task.name}
    found = mixture_report.drift(statistics_of(spec, 2_000_000, **starved), spec)
    lost = 100 * language_shares(SENTENCES)["mr"]
    mr = next(d for d in found.differences if d.name == "mr")
    assert mr.points == pytest.approx(-lost) and lost > 1
    assert found.largest.name == "mr" and found.largest.kind == "language"
    assert "'mr' has 0.00 % of them" in found.warning and "points" in found.warning
    early = mixture_report.drift(statistics_of(spec, 200_000, **starved), spec)
    assert early.warning is None and early.largest.name == "mr"
    assert mixture_report.drift(statistics_of(spec, 0), spec).text_tokens == 0


def test_long_names_do_not_break_the_table():
    name = "a_corpus_with_a_very_long_name_indeed_as_they_come"
    spec = MixtureSpec("m", "0" * 64, (TaskSpec("t", name, 1, {"kind": "clm"}),))
    text = mixture_report.table(spec, {name: Counted(3, 1)}, 1e15)
    assert max(map(len, text.splitlines())) <= 100 and "a_corpus_with_a_very…" in text
