"""13-grams by hash, beside the slow definition of what they are."""

from __future__ import annotations

import random
import unicodedata
from hashlib import blake2b
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text import ngrams
from alexatm_jax.text.ngrams import anchors_of, ngram_hashes, words_of
from alexatm_jax.text.spoken import spoken

SENTENCES = {
    "ar": "«يولدُ جميعُ الناسِ أحراراً متساوينَ في الكرامةِ والحقوق»، وقد وُهبوا عقلاً وضميراً؛ وعليهم!",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren – GROẞ wie Größe, z. B.",
    "en": "“All human beings”, it's said, are born free & equal: in DIGNITY and rights (1.5%).",
    "es": "¿Todos los seres humanos nacen libres e iguales en dignidad y derechos? ¡Sí: €2,50!",
    "fr": "Tous les êtres humains naissent libres… et l’homme, dit-il, n'est qu’un «roseau».",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२.५ क्‍ष",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti; c'è un'altra.",
    "ja": "すべての人間は、生れながらにして自由であり、かつ、「尊厳」と権利とＡＢＣ１２平等。",
    "mr": "सर्व मानवी व्यक्ती जन्मतःच स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा, समान अधिकार आहेत.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos — 'Sim'.",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள்.",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు. ఆమేన్‌",
}
WORDS = ["one", "two", "três", "चार", "五", "六", "な", "ー"]


def reference_ngrams(words: list[str]) -> list[tuple[str, ...]]:
    """The shortest run from each word that weighs 26 halves; the last four WORDS weigh one."""
    found = []
    for start in range(len(words)):
        weights = accumulate(1 if word in WORDS[4:] else 2 for word in words[start : start + 26])
        ends = [end for end, weight in enumerate(weights, start + 1) if weight >= 26]
        found += [tuple(words[start:end]) for end in ends[:1]]
    return found


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_hashes_agree_with_the_definition(words):
    expected, hashes = reference_ngrams(words), ngram_hashes(" ".join(words)).tolist()
    assert len(hashes) == len(expected)
    assert len(set(zip(expected, hashes, strict=True))) == len(set(hashes)) == len(set(expected))


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(0, 20))
def test_every_ngram_holds_a_sparse_anchor_wherever_it_stands(words, before):
    for ngram in reference_ngrams(words):
        own = anchors_of(words_of(" ".join(ngram)))
        assert set(own) & set(anchors_of([b"x"] * before + words_of(" ".join(ngram)), sparse=True))


@pytest.mark.parametrize(
    "vocabulary", [WORDS, WORDS[:4], WORDS[4:]], ids="mixed spaced not".split()
)
def test_long_texts_hash_as_their_parts_do(vocabulary):
    words = random.Random(0).choices(vocabulary, k=9000)
    expected = [ngram_hashes(" ".join(ngram))[0] for ngram in reference_ngrams(words)]
    assert len(expected) > 2 * ngrams._BLOCK_WORDS
    assert np.array_equal(ngram_hashes(" ".join(words)), expected)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("?!…", 0),
        ("a " * 12, 0),
        ("a " * 13, 1),
        ("漢" * 25, 0),
        ("漢かカ" * 9, 2),
        ("漢" * 12 + " seven words are as heavy as fourteen", 1),
        ("漢" * 12 + " six words are not as heavy", 0),
    ],
)
def test_an_ngram_weighs_thirteen_words(text, count):
    assert len(ngram_hashes(text)) == count


def test_a_hash_is_the_polynomial_that_it_is_said_to_be():
    words = b"one two three four five six seven eight nine ten eleven twelve thirteen".split()
    hashed = [int.from_bytes(blake2b(word, digest_size=8).digest(), "little") for word in words]
    powers = [pow(0x94D049BB133111EB, k, 2**64) for k in range(1, 14)]
    expected = sum(h * power for h, power in zip(hashed, powers, strict=True)) % 2**64
    assert ngram_hashes(b" ".join(words).decode()).tolist() == [expected]


@pytest.mark.parametrize("language", SENTENCES)
def test_case_punctuation_space_and_form_do_not_matter(language):
    text = SENTENCES[language]
    words = words_of(text)
    assert len(words) >= 8
    for other in (
        spoken(text, language),
        text.upper().lower(),
        "\ufeff¿" + text.replace(" ", " —\u00a0") + "?!",
        unicodedata.normalize("NFD", text),
        text.replace("’", "'"),
    ):
        assert words_of(other) == words, other


@given(st.data(), st.sampled_from(sorted(SENTENCES)))
def test_shuffled_characters_agree_with_their_spoken_form(data, language):
    text = "".join(data.draw(st.permutations(SENTENCES[language])))
    assert words_of(text) == words_of(spoken(text, language))


def test_real_text_agrees_with_its_spoken_form(shared_data):
    for folder, code in (("bible", "{}.txt"), ("pud", "{}.txt")):
        for language in SENTENCES:
            path = shared_data / folder / code.format(language)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines[::4]:
                assert words_of(line) == words_of(spoken(line, language))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("كـــتاب", "كتاب"),
        ("क्\u200dष नी\u200cति", "क्ष नीति"),
        ("Donau\u00addampf\u200bschiff", "donaudampfschiff"),
        ("\u202bword\u202c\u200f \ufeffword", "word word"),
        ("葛\U000e0100城", "葛 城"),
        ("＇Ｔｉｓ ㎏ don\u02bct m²", "tis don t m2"),
        ("\ud800a_b\x00c\u2028d", "a b c d"),
    ],
)
def test_what_cannot_be_seen_and_other_shapes_do_not_matter(text, words):
    assert [word.decode() for word in words_of(text)] == words.split()


def test_marks_make_words_other_words():
    assert (
        len({tuple(words_of(word)) for word in ("कि", "की", "क", "ناس", "ناسٌ", "pêche", "peche")})
        == 7
    )


def test_the_cache_of_words_stays_bounded(monkeypatch):
    text = " ".join(map(str, range(200)))
    expected = ngram_hashes(text)
    monkeypatch.setattr(ngrams, "_MAX_CACHED_WORDS", 16)
    monkeypatch.setattr(ngrams, "_HASHED", ngrams._Hashing())
    assert np.array_equal(ngram_hashes(text + " 7" * 200)[: len(expected)], expected)
    ngram_hashes(" ".join(map(str, range(1000, 1200))))
    assert len(ngrams._HASHED) <= 16
