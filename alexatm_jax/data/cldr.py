"""Writes the demo's corpus and few-shot items from parallel CLDR phrases (decision 8).

Training documents are a few lines of one thing: mostly the same pair of languages over and
over, so that a document's first line tells how the others go on. One-shot prompting asks
just that of a model, and two of the four line styles are the test templates themselves.
What is held out are keys (`cldr_phrases.is_held_out`): words, templates and the patterns of
each locale are all seen in training; this date or that number of kilometers never is. The
mix departs from the paper's, which has no such lists (recipe §2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

from alexatm_jax.data.cldr_phrases import (
    LANGUAGE_NAMES,
    LANGUAGES,
    YEARS,
    Key,
    is_held_out,
    keys,
    phrase,
)

__all__ = [
    "KINDS",
    "LANGUAGES",
    "LANGUAGE_NAMES",
    "NUMBER_SYMBOLS",
    "QUERY_TEMPLATES",
    "SHOT_TEMPLATES",
    "document",
    "documents",
    "evaluation_items",
    "is_held_out",
    "shot_pool",
]

KINDS = ("date", "unit", "money")
"""The kinds evaluated; a date is asked for in its long form."""
_PHRASE_KIND = {"date": "date.long", "unit": "unit", "money": "money"}
TARGETS = tuple(language for language in LANGUAGES if language != "en")

NUMBER_SYMBOLS = tuple(f"{number:02d}" for number in range(100)) + tuple(map(str, YEARS))
"""Pieces that the demo's tokenizer must not split: two digits, and every year."""

SHOT_TEMPLATES = {
    "unnamed": "Sentence: {source}; Translation: {target};",
    "named": "Sentence: {source}; Translation in {target_language}: {target};",
}
QUERY_TEMPLATES = {
    "unnamed": "Sentence: {source}; Translation:",
    "named": "Sentence: {source}; Translation in {target_language}:",
}

LINE_COUNTS = (1, 2, 2, 3, 3, 4)
"""How many lines a document has, each equally often. In a short document a CLM cut more often
parts a phrase from its translation: only then must the decoder translate what the encoder holds,
as a prompt asks. With five lines each, unit words were still at chance after 2560 steps."""
BILINGUAL_SHARE = 0.86
ENGLISH_SOURCE_SHARE = 0.70
KIND_WEIGHTS = {
    "date.long": 6,
    "date.medium": 4,
    "unit": 8,
    "territory": 4,
    "money": 3,
    "date.full": 2,
    "date.short": 2,
}
LINE_STYLE_WEIGHTS = {
    "{source} = {target};": 1,
    "{source_language}: {source}; {target_language}: {target};": 1,
    SHOT_TEMPLATES["unnamed"]: 4,
    SHOT_TEMPLATES["named"]: 3,
}
"""The effects of these proportions were not separated, but for units: at half their weight their
words, which have no other kind to learn from, came much later than the months of dates."""


def documents(count: int, seed: int) -> Iterator[str]:
    """Yields training documents; the i-th depends on (seed, i) alone."""
    return (document(seed, index) for index in range(count))


def document(seed: int, index: int) -> str:
    """Writes one training document of one to four lines, joined by spaces.

    Lines end in `;` because the tokenizer drops newlines (recipe §5).
    """
    rng = Random(f"{seed}/{index}")
    count = rng.choice(LINE_COUNTS)
    if rng.random() < BILINGUAL_SHARE:
        lines = _bilingual_list(rng, count)
    else:
        lines = rng.choice((_table, _calendar, _monolingual_list))(rng, count)
    return " ".join(lines)


def _bilingual_list(rng: Random, count: int) -> list[str]:
    source, target = _language_pair(rng)
    kind = _weighted(rng, KIND_WEIGHTS)
    style = _weighted(rng, LINE_STYLE_WEIGHTS)
    return [
        style.format(
            source=phrase(kind, key, source),
            target=phrase(kind, key, target),
            source_language=LANGUAGE_NAMES[source],
            target_language=LANGUAGE_NAMES[target],
        )
        for key in rng.sample(keys(kind, held_out=False), count)
    ]


def _language_pair(rng: Random) -> tuple[str, str]:
    if rng.random() < ENGLISH_SOURCE_SHARE:
        return "en", rng.choice(TARGETS)
    source = rng.choice(TARGETS)
    return source, rng.choice([language for language in LANGUAGES if language != source])


def _table(rng: Random, count: int) -> list[str]:
    """One key in some languages, each named."""
    kind = _weighted(rng, KIND_WEIGHTS)
    key = rng.choice(keys(kind, held_out=False))
    return [
        f"{LANGUAGE_NAMES[language]}: {phrase(kind, key, language)};"
        for language in rng.sample(LANGUAGES, count)
    ]


def _calendar(rng: Random, count: int) -> list[str]:
    """Days in a row, without those held out."""
    language = rng.choice(LANGUAGES)
    days = keys("date.full", held_out=False)
    first = rng.randrange(len(days) - count + 1)
    return [f"{phrase('date.full', day, language)};" for day in days[first : first + count]]


def _monolingual_list(rng: Random, count: int) -> list[str]:
    language = rng.choice(LANGUAGES)
    kind = _weighted(rng, KIND_WEIGHTS)
    sample = rng.sample(keys(kind, held_out=False), count)
    return [f"{phrase(kind, key, language)};" for key in sample]


def _weighted(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def evaluation_items(kind: str, named: bool, count: int, seed: int) -> list[dict[str, Any]]:
    """Draws held-out phrases to be said in another language, English being the source.

    Targets are the other 11 languages in turn, so that `count` items are spread evenly. No
    target is the same in another language: copying the source never answers, and neither does
    "17 horas" for Spanish as well as Portuguese. Named and unnamed items differ in their
    ids alone, so that the two tasks compare item by item.

    Args:
      kind: one of KINDS.
      named: whether the prompt will name the target language.
      count: how many items.
      seed: changes which items are drawn and how their choices are ordered.

    Returns:
      Items with "id", "language" (code of the target), "source", "target",
      "target_language" (English name), "shot_group" (such as "en-fr"), "choices" (the
      phrase in four languages, four different texts, none of them the source) and "answer"
      (index of the target in the choices).

    Raises:
      ValueError: if the kind is unknown or CLDR has fewer items.
    """
    _check_kind(kind)
    task = f"{kind}_{'named' if named else 'unnamed'}"
    per_target = -(-count // len(TARGETS))
    columns = [islice(_items(kind, target, task, seed), per_target) for target in TARGETS]
    items = [item for row in zip(*columns, strict=False) for item in row][:count]
    if len(items) < count:
        raise ValueError(
            f"{count} {kind} items were asked for; {len(items)} are held out evenly over "
            f"{len(TARGETS)} target languages; ask for at most that many."
        )
    return items


def shot_pool(kind: str, count_per_pair: int, seed: int) -> list[dict[str, str]]:
    """Draws phrases that are *not* held out, to be shown as solved examples.

    A shot's target differs from the same phrase in every other language: pt and es share
    "17 horas", which would leave a one-shot prompt ambiguous.

    Args:
      kind: one of KINDS.
      count_per_pair: how many for each of the 11 pairs of English and a target.
      seed: changes which are drawn.

    Returns:
      Dicts with "id", "shot_group", "source", "target" and "target_language".

    Raises:
      ValueError: if the kind is unknown or a pair has fewer shots.
    """
    _check_kind(kind)
    pool = []
    for target in TARGETS:
        shots = list(islice(_shots(kind, target, seed), count_per_pair))
        if len(shots) < count_per_pair:
            raise ValueError(
                f"{count_per_pair} {kind} shots were asked for; en-{target} has "
                f"{len(shots)} that identify the language; ask for at most that many."
            )
        pool += shots
    return pool


def _items(kind: str, target: str, task: str, seed: int) -> Iterator[dict[str, Any]]:
    rng = Random(f"{seed}/{kind}/{target}/items")
    held_out = keys(kind, held_out=True)
    for key in rng.sample(held_out, len(held_out)):
        texts = _in_all_languages(kind, key)
        if _names_its_language(texts, target):
            choices = _choices(texts, target, rng)
            yield _example(task, key, texts, target) | {
                "language": target,
                "choices": choices,
                "answer": choices.index(texts[target]),
            }


def _shots(kind: str, target: str, seed: int) -> Iterator[dict[str, str]]:
    rng = Random(f"{seed}/{kind}/{target}/shots")
    trained = keys(kind, held_out=False)
    for key in rng.sample(trained, len(trained)):
        texts = _in_all_languages(kind, key)
        if _names_its_language(texts, target):
            yield _example(kind, key, texts, target)


def _names_its_language(texts: dict[str, str], target: str) -> bool:
    """Says whether no other language has the same text, English included."""
    return list(texts.values()).count(texts[target]) == 1


def _in_all_languages(kind: str, key: Key) -> dict[str, str]:
    return {language: phrase(_PHRASE_KIND[kind], key, language) for language in LANGUAGES}


def _example(task: str, key: Key, texts: dict[str, str], target: str) -> dict[str, str]:
    return {
        "id": f"{task}/en-{target}/{_readable(key)}",
        "shot_group": f"en-{target}",
        "source": texts["en"],
        "target": texts[target],
        "target_language": LANGUAGE_NAMES[target],
    }


def _readable(key: Key) -> str:
    """`1997-03-12`, `17-kilometer` or `17-USD`."""
    return f"{key[0]}-{key[1].split('-')[-1]}" if isinstance(key, tuple) else str(key)


def _choices(texts: dict[str, str], target: str, rng: Random) -> list[str]:
    others = rng.sample(TARGETS, len(TARGETS))
    different = dict.fromkeys([texts[target], *(texts[language] for language in others)])
    different.pop(texts["en"], None)
    return rng.sample(list(different)[:4], 4)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not evaluated; use one of {', '.join(KINDS)}.")
