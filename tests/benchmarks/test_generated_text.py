"""Generated text is the same every time and as long as it was asked to be."""

from __future__ import annotations

import unicodedata
from itertools import islice

import pytest

from benchmarks.generated_text import SCRIPTS, documents


@pytest.mark.parametrize("language", SCRIPTS)
def test_documents_are_their_own_languages(language):
    texts = list(islice(documents(language, 3.0), 20))
    assert texts == list(islice(documents(language, 3.0), 20))
    assert texts != list(islice(documents(language, 3.0, seed=1), 20))
    script = SCRIPTS[language]
    for text in texts:
        assert unicodedata.is_normalized("NFC", text) and text == text.strip()
        assert text.endswith(script.stop.strip())
        assert set(text.lower()) <= set(script.consonants + script.vowels + " .,،、。।")


def test_documents_have_about_as_many_sentences_as_asked():
    counts = [text.count(".") for text in islice(documents("en", 12.0), 400)]
    assert min(counts) >= 1 and 10 < sum(counts) / len(counts) < 14


def test_frequencies_follow_zipf():
    """The first of 3000 words is one in 8.6, and the second half as frequent."""
    words = " ".join(islice(documents("en", 50.0), 100)).lower().replace(",", "").replace(".", "")
    counts: dict[str, int] = {}
    for word in words.split():
        counts[word] = counts.get(word, 0) + 1
    first, second = sorted(counts.values(), reverse=True)[:2]
    assert 0.1 < first / len(words.split()) < 0.14 and 0.4 < second / first < 0.65
