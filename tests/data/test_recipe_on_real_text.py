"""Real text in all 12 languages, through the whole recipe: text tokens are shared as it says."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
import seqio

from alexatm_jax.data import cache, mixture_report
from alexatm_jax.data.pipeline import ReaderConfig, open_reader
from alexatm_jax.data.recipe import LocalText, TextRecipe, language_shares
from alexatm_jax.data.seqio_cache import build_cache
from alexatm_jax.data.seqio_recipe import register
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.data.vocabulary.training import train
from alexatm_jax.text.spoken import LANGUAGES

DECLARATIONS = {
    **{"ar": "arb", "de": "deu_1996", "en": "eng", "es": "spa", "fr": "fra", "hi": "hin"},
    **{"it": "ita", "ja": "jpn", "mr": "mar", "pt": "por_BR", "ta": "tam", "te": "tel"},
}
NUM_VERSES = 600


@pytest.fixture(scope="module")
def texts(shared_data: Path, tmp_path_factory) -> Path:
    """Human rights, a paragraph a line, and but for Marathi verses, a verse a line."""
    folder = tmp_path_factory.mktemp("texts")
    for language, code in DECLARATIONS.items():
        page = (shared_data / "udhr" / f"{code}.html").read_text(encoding="utf-8")
        paragraphs = [" ".join(unescape(p).split()) for p in re.findall(r"<p>(.*?)</p>", page)]
        (folder / f"rights_{language}.txt").write_text("\n".join(paragraphs), encoding="utf-8")
        verses = shared_data / "bible" / f"{language}.txt"
        if verses.exists():
            lines = verses.read_text(encoding="utf-8").splitlines()[:NUM_VERSES]
            (folder / f"verses_{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def vocabulary(texts: Path) -> Vocabulary:
    lines = [
        line
        for path in sorted(texts.glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()[:150]
    ]
    return train(lines, texts / "v.model", size=4000)


@pytest.fixture(scope="module")
def mixture(texts: Path, vocabulary: Vocabulary) -> cache.MixtureSpec:
    """The recipe's mixture of both texts, cached."""
    sources = [
        LocalText(name, {path.stem[-2:]: str(path) for path in texts.glob(f"{name}_*")}, weight)
        for name, weight in (("rights", 10), ("verses", 1))
    ]
    try:
        register(TextRecipe(sources, str(vocabulary.path)), "real", texts / "cache")
        return build_cache(texts / "cache", "real")
    finally:
        seqio.MixtureRegistry.reset()
        seqio.TaskRegistry.reset()


def test_the_mixture_has_the_papers_shape(texts, mixture):
    assert len(mixture.tasks) == 4 * (12 + 11)
    corpora = {
        t.corpus: cache.read_corpus(texts / "cache", t.corpus).provenance for t in mixture.tasks
    }
    content = mixture_report.as_json(mixture, corpora)
    rows = content["languages"]
    assert set(rows) == set(LANGUAGES)
    wanted = language_shares({language: row["sentences"] for language, row in rows.items()})
    assert {language: row["q"] for language, row in rows.items()} == pytest.approx(wanted)
    # A sentence counts once: its spoken form is another corpus, but no other sentence.
    for form in ("spoken", "written"):
        assert corpora[f"rights_mr_{form}"].num_sentences == rows["mr"]["sentences"]
    assert content["objectives"] == pytest.approx({"denoising": 0.8, "clm": 0.2})


@pytest.mark.parametrize("packing", ["document_separator", "isolated"])
def test_a_million_tokens_are_shared_within_one_point(texts, mixture, packing):
    config = ReaderConfig(64, 1024, 1024, seed=0, num_streams=16, packing=packing)
    reader = open_reader(texts / "cache", "real", config)
    drift = mixture_report.drift(reader.statistics(), mixture)
    while drift.text_tokens < 1_000_000:
        next(reader)
        drift = mixture_report.drift(reader.statistics(), mixture)
    assert drift.text_tokens < 1_200_000
    assert abs(drift.largest.points) < 1 and drift.warning is None, "\n".join(drift.lines())
