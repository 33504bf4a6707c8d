"""Says how well a vocabulary suits text that it was not trained on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.data.vocabulary.picture import draw_report
from alexatm_jax.data.vocabulary.sample import ONE_HELD_OUT_IN, TextSample
from alexatm_jax.text.preparation import FORMS
from alexatm_jax.text.spoken import spoken
from alexatm_jax.whole_files import write_json, write_whole

WITHOUT_SPACES = frozenset({"ja"})
"""Languages that do not part their words, so that nothing is counted per word."""

_SCRIPTS = {
    "LATIN": "Latin",
    "ARABIC": "Arabic",
    "DEVANAGARI": "Devanagari",
    "HIRAGANA": "Hiragana",
    "KATAKANA": "Katakana",
    "CJK": "Han",
    "TAMIL": "Tamil",
    "TELUGU": "Telugu",
}


@dataclass(frozen=True)
class Figures:
    """What a vocabulary makes of one language in one form. White space is no character here.

    Attributes:
      language, form: which text.
      num_sentences, num_words, num_characters, num_pieces: how much of it. A word is what stands
        between white space, its punctuation included; 0 where words are not parted.
      num_byte_characters: characters spelt in byte pieces, for want of a piece of their own.
      num_unknown: `<unk>` pieces, which only vocabularies without byte pieces give.
      num_whole_words: words that, without punctuation at either end, are one piece.
      num_distinct_characters, num_covered_characters: of the characters met, and of those the
        ones that no byte pieces or `<unk>` stand for.
      num_pieces_used: different pieces met.
    """

    language: str
    form: str
    num_sentences: int
    num_words: int
    num_characters: int
    num_pieces: int
    num_byte_characters: int
    num_unknown: int
    num_whole_words: int
    num_distinct_characters: int
    num_covered_characters: int
    num_pieces_used: int

    @property
    def ratios(self) -> dict[str, float | None]:
        """The figures that people compare; None where there was nothing to divide by."""
        return {
            "pieces_per_word": _ratio(self.num_pieces, self.num_words),
            "pieces_per_character": _ratio(self.num_pieces, self.num_characters),
            "characters_per_piece": _ratio(self.num_characters, self.num_pieces),
            "whole_word_share": _ratio(self.num_whole_words, self.num_words),
            "byte_character_share": _ratio(self.num_byte_characters, self.num_characters),
            "unknown_piece_share": _ratio(self.num_unknown, self.num_pieces),
            "covered_character_share": _ratio(
                self.num_covered_characters, self.num_distinct_characters
            ),
        }

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), **self.ratios}


def measure(
    vocabulary: Vocabulary, texts: Iterable[str], language: str, form: str
) -> tuple[Figures, frozenset[int]]:
    """Tokenizes the texts of one language in one form.

    Returns:
      The figures, and the ids of the pieces met.
    """
    tokens: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    num_sentences = 0
    for text in texts:
        num_sentences += 1
        tokens.update(vocabulary.encode(text).tolist())
        parts = text.split()
        characters.update("".join(parts))
        words.update(parts if language not in WITHOUT_SPACES else ())
    figures = Figures(
        language=language,
        form=form,
        num_sentences=num_sentences,
        num_words=words.total(),
        num_characters=characters.total(),
        num_pieces=tokens.total(),
        num_byte_characters=_characters_in_bytes(vocabulary, tokens),
        num_unknown=tokens[vocabulary.special.unk],
        num_whole_words=_whole_words(vocabulary, words),
        num_distinct_characters=len(characters),
        num_covered_characters=sum(_has_piece(vocabulary, one) for one in characters),
        num_pieces_used=len(tokens),
    )
    return figures, frozenset(tokens)


def report(vocabulary: Vocabulary, sample: TextSample) -> dict[str, Any]:
    """Measures a vocabulary on the held-out sentences of every language, in both forms.

    Returns:
      An object for `json`: "vocabulary" (what it is made of), "held_out" (a row per language and
      form, see `Figures`), "used" (pieces met in any of them), "sample" (what was drawn).

    Raises:
      ValueError: if no language has a held-out sentence.
    """
    check_held_out(sample)
    rows: list[dict[str, Any]] = []
    used: set[int] = set()
    for language, text in sample.languages.items():
        for form in FORMS:
            shown = (one if form == "written" else spoken(one, language) for one in text.held_out)
            figures, pieces = measure(vocabulary, filter(None, shown), language, form)
            if figures.num_sentences:
                rows.append(figures.as_json())
                used |= pieces
    of_text = {
        token for token, (_, kind) in enumerate(vocabulary.pieces) if kind in ("learned", "added")
    }
    return {
        "vocabulary": _made_of(vocabulary),
        "held_out": rows,
        "used": {"pieces": len(used & of_text), "of": len(of_text)},
        "sample": _drawn(sample),
    }


def check_held_out(sample: TextSample) -> None:
    """Raises ValueError if there is no sentence to measure a vocabulary on."""
    if not any(text.held_out for text in sample.languages.values()):
        raise ValueError(
            f"no sentence of this text is held out for the report, where one in {ONE_HELD_OUT_IN} "
            "should be; give more text."
        )


def write_report(content: Mapping[str, Any], path: Path) -> list[Path]:
    """Writes what `report` gave beside `path`: `.report.json`, `.report.md` and `.report.png`.

    Returns:
      The three paths.
    """
    paths = report_paths(path)
    write_json(paths[0], content)
    write_whole(paths[1], as_markdown(content).encode())
    write_whole(paths[2], partial(draw_report, content))
    return paths


def report_paths(path: Path) -> list[Path]:
    """Names the three files of a vocabulary's report."""
    return [path.with_suffix(f".report.{ending}") for ending in ("json", "md", "png")]


def as_markdown(content: Mapping[str, Any]) -> str:
    """Lays a report out as tables."""
    vocabulary = content["vocabulary"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in vocabulary["kinds"].items())
    used = content["used"]
    parts = [
        f"# Vocabulary {vocabulary['name']}\n\n{vocabulary['size']:,} pieces ({kinds}), SHA-256 "
        f"{vocabulary['sha256'][:12]}.",
        f"## Held-out sentences\n\nOne sentence in {ONE_HELD_OUT_IN}, chosen by its hash, is in no "
        "sample. A word is what stands between white space; it is whole if it is one piece, apart "
        "from punctuation around it. Characters are counted without white space.\n\n"
        + _figures_table(content),
        f"All of them together use {used['pieces']:,} of the {used['of']:,} pieces that text can "
        f"give ({_percent(used['pieces'] / used['of'])}).",
        "## Pieces by script of their first letter\n\n" + _scripts_table(vocabulary["scripts"]),
    ]
    if content["sample"]:
        parts.insert(1, "## Sample\n\n" + _sample_text(content["sample"]))
    return "\n\n".join(parts) + "\n"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _characters_in_bytes(vocabulary: Vocabulary, tokens: Mapping[int, int]) -> int:
    """Counts the first bytes of characters; those that continue one are 10xxxxxx."""
    return sum(
        count
        for token, count in tokens.items()
        for piece, kind in [vocabulary.pieces[token]]
        if kind == "byte" and not 0x80 <= int(piece[3:-1], 16) < 0xC0
    )


def _has_piece(vocabulary: Vocabulary, character: str) -> bool:
    tokens = vocabulary.encode(character).tolist()
    missing = any(vocabulary.pieces[token][1] == "byte" for token in tokens)
    return not missing and vocabulary.special.unk not in tokens


def _whole_words(vocabulary: Vocabulary, words: Mapping[str, int]) -> int:
    cores: Counter[str] = Counter()
    for word, count in words.items():
        cores[_without_punctuation(word)] += count
    del cores[""]
    return sum(count for core, count in cores.items() if len(vocabulary.encode(core)) == 1)


def _without_punctuation(word: str) -> str:
    inside = [place for place, one in enumerate(word) if unicodedata.category(one)[0] not in "PS"]
    return word[inside[0] : inside[-1] + 1] if inside else ""


def _made_of(vocabulary: Vocabulary) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for piece, kind in vocabulary.pieces:
        kinds[kind] += 1
        if kind in ("learned", "added"):
            scripts[script(piece)] += 1
    return {
        "name": vocabulary.path.name,
        "sha256": vocabulary.sha256,
        "size": vocabulary.size,
        "kinds": dict(kinds),
        "scripts": dict(scripts.most_common()),
    }


def script(piece: str) -> str:
    """Names the script of a piece's first letter; "digits" or "signs" where it has none.

    Python knows no scripts, but the names of characters begin with them.
    """
    for character in piece:
        if unicodedata.category(character)[0] in "LM":
            words = re.split("[ -]", unicodedata.name(character, ""))
            return next((_SCRIPTS[word] for word in words if word in _SCRIPTS), "other")
    return "digits" if any(character.isdigit() for character in piece) else "signs"


def _drawn(sample: TextSample) -> dict[str, Any] | None:
    total = sum(len(text.drawn) for text in sample.languages.values())
    if not total:
        return None
    languages = [
        {
            "language": language,
            "sentences_seen": text.num_sentences,
            "bytes_seen": text.num_bytes,
            "share_asked": text.share_asked,
            "share_drawn": len(text.drawn) / total,
            "sentences_drawn": len(text.drawn),
            "gave_all": text.gave_all,
            "sentences_held_out": len(text.held_out),
            "problems": text.problems,
        }
        for language, text in sample.languages.items()
    ]
    settings = asdict(sample.config)
    return {**settings, "bytes_drawn": sample.num_bytes, "languages": languages}


def _figures_table(content: Mapping[str, Any]) -> str:
    head = (
        "language | form | sentences | pieces/word | pieces/character | characters/piece | words "
        "whole | characters in bytes | unknown pieces | distinct characters covered | pieces used"
    )
    rows = [
        [
            row["language"],
            row["form"],
            f"{row['num_sentences']:,}",
            _number(row["pieces_per_word"]),
            _number(row["pieces_per_character"]),
            _number(row["characters_per_piece"]),
            _percent(row["whole_word_share"]),
            _percent(row["byte_character_share"]),
            _percent(row["unknown_piece_share"]),
            f"{row['num_covered_characters']:,} of {row['num_distinct_characters']:,}",
            f"{row['num_pieces_used']:,}",
        ]
        for row in content["held_out"]
    ]
    return _table(head.split(" | "), rows)


def _sample_text(sample: Mapping[str, Any]) -> str:
    head = "language | sentences seen | MB seen | share by formula | share drawn | drawn | held out"
    rows = [
        [
            row["language"],
            f"{row['sentences_seen']:,}",
            f"{row['bytes_seen'] / 1e6:.2f}",
            _percent(row["share_asked"]),
            _percent(row["share_drawn"]),
            f"{row['sentences_drawn']:,}" + (" (all)" if row["gave_all"] else ""),
            f"{row['sentences_held_out']:,}",
        ]
        for row in sample["languages"]
    ]
    short = [row["language"] for row in sample["languages"] if row["gave_all"]]
    note = (
        f"\n\n{', '.join(short)} gave every sentence there is, once: no text is repeated to reach "
        "the share by the formula. More text, or fewer --sample_bytes, brings the shares nearer."
    )
    return (
        f"{sample['bytes_drawn'] / 1e6:.2f} MB of distinct sentences (at most "
        f"{sample['max_bytes'] / 1e6:.2f} MB), {_percent(sample['spoken_share'])} of them in "
        f"spoken form; languages by p^{sample['alpha']:g}, p from the sentences seen; seed "
        f"{sample['seed']}.\n\n" + _table(head.split(" | "), rows) + (note if short else "")
    )


def _scripts_table(scripts: Mapping[str, int]) -> str:
    return _table(["script", "pieces"], [[name, f"{n:,}"] for name, n in scripts.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"
