"""The demo's documents hide what is held out, and its items can be trusted."""

import collections
import re
import unicodedata
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data import cldr, cldr_phrases

TEMPLATE_STYLES = ("unnamed", "named")


@pytest.fixture(scope="module")
def corpus():
    return list(cldr.documents(3000, seed=1))


@pytest.fixture(scope="module")
def held_out_texts():
    return {
        cldr_phrases.phrase(kind, key, language)
        for kind in cldr_phrases.PHRASE_KINDS
        for key in cldr_phrases.keys(kind, held_out=True)
        for language in cldr.LANGUAGES
    }


def find_phrases(document, texts, lengths):
    """Every text that starts at a word and is not cut out of a longer number."""
    starts = [0, *(match.end() for match in re.finditer(" ", document))]
    for start in starts:
        for length in lengths:
            end = start + length
            if document[start:end] in texts and not document[end : end + 1].isdigit():
                yield document[start:end]


def test_nothing_held_out_is_in_a_document(corpus, held_out_texts):
    lengths = sorted(set(map(len, held_out_texts)))
    for document in corpus:
        assert list(find_phrases(document, held_out_texts, lengths)) == []


def test_the_search_above_finds_every_held_out_phrase(held_out_texts):
    lengths = sorted(set(map(len, held_out_texts)))
    for text in islice(sorted(held_out_texts), 0, None, 500):
        assert text in find_phrases(f"Sentence: 1 {text}; x", held_out_texts, lengths)


@given(seed=st.integers(0, 2**31), index=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_a_document_depends_on_seed_and_index_alone(seed, index):
    *_, last = cldr.documents(index + 1, seed)
    assert last == cldr.document(seed, index)


def test_seeds_and_indices_give_different_documents(corpus):
    assert len(set(corpus)) > 0.99 * len(corpus)
    assert not set(corpus[:100]) & set(cldr.documents(100, seed=2))


def test_documents_are_plain_text(corpus):
    for document in corpus:
        assert unicodedata.is_normalized("NFC", document)
        assert "\n" not in document and "\u00a0" not in document and "\u202f" not in document
        assert all(unicodedata.category(c) != "Cf" for c in document.replace("\u200c", ""))
        assert not re.search(r"\b(length|mass|volume|duration)-", document)


def test_documents_have_as_many_lines_as_they_should(corpus):
    counts = collections.Counter(
        document.count("Sentence:") for document in corpus if document.startswith("Sentence:")
    )
    assert set(counts) == set(cldr.LINE_COUNTS)
    for lines, seen in counts.items():
        share = cldr.LINE_COUNTS.count(lines) / len(cldr.LINE_COUNTS)
        assert abs(seen / counts.total() - share) < 0.06
    for document in corpus:
        assert document.count(";") in {n * ends for n in cldr.LINE_COUNTS for ends in (1, 2)}


def test_a_few_shot_prompt_is_the_beginning_of_a_document(corpus):
    prefixes = 0
    for document in corpus:
        pairs = re.findall(r"Sentence: ([^;]+); Translation(?: in (\w+))?: ([^;]+);", document)
        for style in TEMPLATE_STYLES if pairs else ():
            if len(pairs) < 2:
                continue
            shot, query = (
                {"source": source, "target_language": language, "target": target}
                for source, language, target in pairs[:2]
            )
            shot_text = cldr.SHOT_TEMPLATES[style].format(**shot)
            prompt = f"{shot_text} {cldr.QUERY_TEMPLATES[style].format(**query)}"
            prefixes += document.startswith(prompt + " ")
    of_two_lines = sum(n > 1 for n in cldr.LINE_COUNTS) / len(cldr.LINE_COUNTS)
    assert prefixes / len(corpus) == pytest.approx(0.86 * 7 / 9 * of_two_lines, abs=0.04)


def test_languages_pairs_and_the_share_of_english(corpus):
    pairs = Counter(
        match.groups()
        for document in corpus
        if (match := re.match(r"(?!Sentence)(\w+): [^;]+; (\w+): [^;]+; \1: ", document))
    )
    sources, targets = (Counter() for _ in range(2))
    for (source, target), count in pairs.items():
        assert source != target
        sources[source] += count
        targets[target] += count
    names = set(cldr.LANGUAGE_NAMES.values())
    assert set(sources) == names == set(targets)
    assert sources["English"] / sources.total() == pytest.approx(0.7, abs=0.1)


@pytest.fixture(scope="module", params=cldr.KINDS)
def kind(request):
    return request.param


def test_items_are_held_out_phrases_that_copying_cannot_answer(kind, held_out_texts):
    items = cldr.evaluation_items(kind, named=False, count=220, seed=0)
    for item in items:
        assert item["source"] != item["target"]
        assert {item["source"], item["target"]} <= held_out_texts
        assert item["shot_group"] == f"en-{item['language']}"
        assert item["target_language"] == cldr.LANGUAGE_NAMES[item["language"]]
    assert Counter(item["language"] for item in items) == dict.fromkeys(cldr.TARGETS, 20)
    assert len({item["id"] for item in items}) == len(items)


def test_choices_are_four_texts_with_the_answer_anywhere(kind):
    items = cldr.evaluation_items(kind, named=True, count=220, seed=0)
    for item in items:
        assert len(set(item["choices"])) == len(item["choices"]) == 4
        assert item["source"] not in item["choices"]
        assert item["choices"][item["answer"]] == item["target"]
    assert min(Counter(item["answer"] for item in items).values()) > 30


def test_named_and_unnamed_items_differ_in_their_ids_alone(kind):
    named, unnamed = (cldr.evaluation_items(kind, flag, 55, seed=3) for flag in (True, False))
    assert [i | {"id": ""} for i in named] == [i | {"id": ""} for i in unnamed]
    assert named[0]["id"].startswith(f"{kind}_named/en-ar/")
    assert not {item["id"] for item in named} & {item["id"] for item in unnamed}


def test_items_repeat_with_their_seed_and_start_alike(kind):
    items = cldr.evaluation_items(kind, True, 40, seed=5)
    assert items == cldr.evaluation_items(kind, True, 100, seed=5)[:40]
    assert items != cldr.evaluation_items(kind, True, 40, seed=6)


def test_shots_are_trained_on_and_identify_their_language(kind, held_out_texts):
    pool = cldr.shot_pool(kind, count_per_pair=12, seed=0)
    assert Counter(shot["shot_group"] for shot in pool) == {
        f"en-{target}": 12 for target in cldr.TARGETS
    }
    meanings = {}
    for shot in pool:
        assert not {shot["source"], shot["target"]} & held_out_texts
        meanings.setdefault((shot["source"], shot["target"]), set()).add(shot["shot_group"])
    assert all(len(groups) == 1 for groups in meanings.values())
    assert pool == cldr.shot_pool(kind, count_per_pair=12, seed=0)


def test_an_ambiguous_phrase_is_never_a_shot():
    sources = {s["source"] for s in cldr.shot_pool("unit", 200, 0) if s["shot_group"] == "en-es"}
    assert not any("hour" in source for source in sources), "pt and es share '17 horas'"
    assert any("kilometer" in source for source in sources)


def test_number_symbols():
    assert len(set(cldr.NUMBER_SYMBOLS)) == 150
    assert {"00", "99", "1980", "2029"} <= set(cldr.NUMBER_SYMBOLS)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="'territory' is not evaluated.*date, unit, money"):
        cldr.evaluation_items("territory", True, 1, 0)
    with pytest.raises(ValueError, match="9999 unit items.*held out evenly over 11"):
        cldr.evaluation_items("unit", True, 9999, 0)
    with pytest.raises(ValueError, match="9999 money shots.*ask for at most"):
        cldr.shot_pool("money", 9999, 0)
