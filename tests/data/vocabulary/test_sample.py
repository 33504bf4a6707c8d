"""Properties of drawing sentences, whatever the order and the number of readers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.data.recipe import language_shares
from alexatm_jax.data.vocabulary.sample import (
    ONE_HELD_OUT_IN,
    SampleConfig,
    allotment,
    draw,
    is_held_out,
)
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.problems import TextError
from alexatm_jax.text.spoken import spoken


@dataclass(frozen=True)
class Listed:
    """A source of the documents that it is given, unit by unit."""

    parts: tuple[tuple[str, ...], ...]
    description: str = "a list"

    def units(self):
        return [{"part": number} for number in range(len(self.parts))]

    def documents(self, unit, problems):
        return iter(self.parts[unit["part"]])


def numbered(count, word="Satz"):
    return [f"{word} {number} steht hier {'so ' * (number % 7)}da" for number in range(count)]


def listed(sentences, parts=1):
    return Listed(tuple(tuple(sentences[part::parts]) for part in range(parts)))


def drawn(sources, **config):
    sample = draw(sources, SampleConfig(**config))
    return {language: text.drawn for language, text in sample.languages.items()}


@given(
    sentences=st.lists(st.integers(0, 60), min_size=1, max_size=120),
    order=st.randoms(use_true_random=False),
    parts=st.integers(1, 6),
    max_bytes=st.integers(0, 1500),
)
def test_order_and_units_change_nothing(sentences, order, parts, max_bytes):
    german = [numbered(61)[number] for number in sentences]
    shuffled = order.sample(german, len(german))
    english = listed(numbered(25, "Line"), 3)
    first, second = (
        draw({"de": source, "en": english}, SampleConfig(max_bytes, max_held_out_bytes=200))
        for source in (listed(german), listed(shuffled, parts))
    )
    assert first == second
    assert first.num_bytes <= max_bytes
    assert first.languages["de"].num_sentences == len(german)


def test_more_processes_draw_the_same(tmp_path):
    for language, word in (("de", "Satz"), ("ja", "文")):
        (tmp_path / f"{language}.txt").write_text("\n".join(numbered(500, word)), encoding="utf-8")
    samples = [
        draw(
            {
                language: LocalFiles(str(tmp_path / f"{language}.txt"), unit_bytes=unit_bytes)
                for language in ("ja", "de")
            },
            SampleConfig(max_bytes=9000),
            num_workers=num_workers,
        )
        for num_workers, unit_bytes in ((1, 1 << 20), (2, 4000))
    ]
    assert samples[0] == samples[1]
    assert list(samples[0].texts()) == list(samples[1].texts())


@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1),
    max_bytes=st.integers(0, 3000),
    seed=st.integers(0, 100),
)
def test_allotment_is_the_largest_that_fits(counts, max_bytes, seed):
    rng = np.random.default_rng(seed)
    sizes = {name: rng.integers(1, 50, count) for name, count in counts.items()}
    weights = language_shares({name: int(rng.integers(1, 500)) for name in counts}, 0.5)
    numbers = allotment(sizes, weights, max_bytes)

    def num_bytes(numbers):
        return sum(int(sizes[name][:number].sum()) for name, number in numbers.items())

    assert num_bytes(numbers) <= max_bytes
    open_names = [name for name in counts if numbers[name] < counts[name]]
    if open_names:
        scale = min((numbers[name] + 1) / weights[name] for name in open_names) * (1 + 1e-9)
        more = {name: min(int(scale * weights[name]), counts[name]) for name in counts}
        assert num_bytes(more) > max_bytes


def test_languages_are_drawn_by_the_root_of_their_sentences():
    texts = drawn({"de": listed(numbered(1000)), "en": listed(numbered(4000))}, max_bytes=20_000)
    assert len(texts["en"]) / len(texts["de"]) == pytest.approx(2, rel=0.02)


def test_a_language_cut_early_is_what_all_of_them_leave_it():
    """Languages are read one by one and cut each time; with fewer bytes the first ones shrink."""
    sources = {name: listed(numbered(900, name)) for name in ("ar", "de", "en", "te")}
    few, many = drawn(sources, max_bytes=8_000), drawn(sources, max_bytes=40_000)
    for language, texts in few.items():
        assert texts == many[language][: len(texts)]
    assert len({len(texts) for texts in few.values()}) == 1


def test_a_short_language_gives_all_once_and_the_others_keep_their_ratio():
    sources = {
        "de": listed(numbered(2000)),
        "en": listed(numbered(8000)),
        "mr": listed(numbered(30) * 3),
    }
    sample = draw(sources, SampleConfig(max_bytes=60_000))
    texts = sample.languages
    assert texts["mr"].gave_all and not texts["de"].gave_all
    assert texts["mr"].num_sentences == 90
    assert sorted(texts["mr"].drawn + texts["mr"].held_out) == sorted(numbered(30))
    assert len(texts["en"].drawn) / len(texts["de"].drawn) == pytest.approx(2, rel=0.02)
    assert 59_000 < sample.num_bytes <= 60_000


def test_held_out_sentences_are_in_no_sample():
    sources = {"de": listed(numbered(4000))}
    samples = [draw(sources, SampleConfig(seed=seed)).languages["de"] for seed in (0, 1)]
    assert set(samples[0].held_out) == set(samples[1].held_out)
    assert all(map(is_held_out, samples[0].held_out))
    assert not any(map(is_held_out, samples[0].drawn))
    assert len(samples[0].held_out) == pytest.approx(4000 / ONE_HELD_OUT_IN, rel=0.2)


def test_another_seed_draws_others():
    sources = {"de": listed(numbered(500))}
    first, second = (set(drawn(sources, max_bytes=3000, seed=seed)["de"]) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("spoken_share", [0.0, 0.7, 1.0])
def test_the_spoken_share_of_any_part_of_the_sample_is_as_asked(spoken_share):
    sample = draw(
        {"de": listed(numbered(6000))}, SampleConfig(max_bytes=60_000, spoken_share=spoken_share)
    )
    pairs = list(zip(sample.texts(), sample.languages["de"].drawn, strict=True))
    assert all(shown in (written, spoken(written, "de")) for shown, written in pairs)
    assert np.mean([shown != written for shown, written in pairs]) == pytest.approx(
        spoken_share, abs=0.03
    )


def test_sentences_without_a_spoken_form_are_left_out():
    sources = {"de": listed([*numbered(50), *(f"{'*' * n} {'-' * n}" for n in range(1, 30))])}
    texts = list(draw(sources, SampleConfig(spoken_share=1)).texts())
    assert texts and all(texts) and all("satz" in text for text in texts)


def test_documents_are_cut_into_sentences_in_nfc():
    text = draw({"de": Listed((("Cafe\u0301 auf. Danach zu.\n\n Ende",),))}).languages["de"]
    assert set(text.drawn + text.held_out) == {"Café auf.", "Danach zu.", "Ende"}
    assert text.num_sentences == 3


def test_text_without_an_end_is_cut():
    text = draw({"de": Listed((("x" * 10_000,),))}).languages["de"]
    assert text.num_sentences == 3
    assert {len(part) for part in text.drawn + text.held_out} == {4096, 10_000 - 2 * 4096}


@pytest.mark.parametrize(
    "sources, options, message",
    [
        ({}, {}, "give some of ar, de"),
        ({"xx": listed(["a"])}, {}, "'xx'.*give some of"),
        ({"de": listed([])}, {}, "not one sentence of de in a list"),
        ({"de": listed(["a"])}, {"num_workers": 0}, "num_workers is 0"),
    ],
)
def test_mistakes_are_refused(sources, options, message):
    with pytest.raises(ValueError, match=message):
        draw(sources, **options)


@pytest.mark.parametrize("wrong", [{"max_bytes": -1}, {"alpha": 1.5}, {"spoken_share": -0.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        SampleConfig(**wrong)


def test_problems_are_counted_or_stop(tmp_path):
    (tmp_path / "a.txt").write_bytes("\n".join(numbered(50)).encode() + b"\n\xff\n")
    sources = {"de": LocalFiles(str(tmp_path / "a.txt"))}
    assert draw(sources).languages["de"].problems["counts"] == {"invalid_utf8": 1}
    with pytest.raises(TextError, match="a.txt, line 51"):
        draw(sources, on_problem="stop")
