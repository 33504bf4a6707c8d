"""Trains a vocabulary on a sample of anybody's text, from the command line."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexatm_jax.data.vocabulary import RESERVED_PIECE, SPECIAL_PIECES, Vocabulary, train
from alexatm_jax.data.vocabulary.report import (
    as_markdown,
    check_held_out,
    report,
    report_paths,
    write_report,
)
from alexatm_jax.data.vocabulary.sample import SampleConfig, TextSample, draw
from alexatm_jax.text.file_patterns import file_bytes, matching_files
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.spoken import check_language

log = logging.getLogger(__name__)

BYTES_PER_SAMPLE_BYTE = {"unigram": 28, "bpe": 10}
"""Peak memory per byte of the sample, at most. SentencePiece 0.2.2 holds all of it: with what
Python holds, 94 MB of English took 26.4 bytes each with unigram, 6.9 with BPE; scripts whose
letters have several bytes take less."""

_MORE_OVER_TWO_GIGABYTES = 18
"""Unigram's wider indices: 34 MB took 22.4 bytes each without them, 38.6 with them."""

_TWO_GIGABYTES = 1 << 31
_NUM_BYTE_PIECES = 256


@dataclass(frozen=True)
class VocabularyConfig:
    """What a vocabulary is to be. The defaults are recipe §2's where it has them.

    Attributes:
      size: V, all pieces together.
      model_type: "unigram" or "bpe".
      num_reserved: tags without a meaning yet, which no text gives.
      added: pieces to have in any case. One of a single character may also be part of longer
        pieces; a longer one is kept whole wherever it occurs, in the midst of words too. U+2581
        stands for the space before a word.
      character_coverage: share of the characters, by frequency, that get their own piece.
      num_threads: of SentencePiece; another number gives another vocabulary with unigram.
    """

    size: int = 150_000
    model_type: str = "unigram"
    num_reserved: int = 1000
    added: tuple[str, ...] = ()
    character_coverage: float = 0.9995
    num_threads: int = 16

    def __post_init__(self) -> None:
        if self.model_type not in BYTES_PER_SAMPLE_BYTE:
            raise ValueError(f"model_type is {self.model_type!r}; it must be 'unigram' or 'bpe'.")
        if self.num_reserved < 0 or self.num_threads < 1:
            raise ValueError(
                f"num_reserved is {self.num_reserved} and num_threads {self.num_threads}; give 0 "
                "or more, and 1 or more."
            )
        if not 0 < self.character_coverage <= 1:
            raise ValueError(
                f"character_coverage is {self.character_coverage}; give the full share of the "
                "characters, in (0, 1]."
            )
        for place, piece in enumerate(self.added):
            _check_added(piece, self.added[:place])
        fixed = len(SPECIAL_PIECES) + _NUM_BYTE_PIECES + self.num_reserved + len(self.added)
        if self.size <= fixed:
            raise ValueError(
                f"size is {self.size}, and {len(SPECIAL_PIECES)} special, {_NUM_BYTE_PIECES} byte, "
                f"{self.num_reserved} reserved and {len(self.added)} added pieces are {fixed}; ask "
                "for more pieces, or reserve fewer."
            )


def train_on(sample: TextSample, path: Path, config: VocabularyConfig) -> Vocabulary:
    """Trains a vocabulary on drawn sentences and writes it to `path`.

    Raises:
      ValueError: if the sample is empty, or does not give so many pieces, or if the machine has
        too little memory.
    """
    num_bytes = sample.num_bytes
    if not num_bytes:
        raise ValueError(
            f"the sample is empty: no sentence fits in {sample.config.max_bytes} bytes; give more "
            "--sample_bytes."
        )
    check_memory(num_bytes, config.model_type)
    return train(
        sample.texts(),
        path,
        size=config.size,
        model_type=config.model_type,
        user_defined_symbols=[piece for piece in config.added if len(piece) > 1],
        required_characters="".join(piece for piece in config.added if len(piece) == 1),
        character_coverage=config.character_coverage,
        num_reserved=config.num_reserved,
        num_threads=config.num_threads,
        over_two_gigabytes=num_bytes >= _TWO_GIGABYTES,
    )


def read_pieces(path: Path) -> tuple[str, ...]:
    """Reads pieces to add, one a line, in NFC as the text will be.

    Raises:
      ValueError: naming the line that is no piece, or the file that is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    pieces: list[str] = []
    for number, line in enumerate(lines, 1):
        piece = unicodedata.normalize("NFC", line)
        try:
            _check_added(piece, pieces)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        pieces.append(piece)
    return tuple(pieces)


def check_memory(sample_bytes: int, model_type: str) -> None:
    """Raises ValueError if training on so large a sample takes more memory than there is."""
    factor, machine = BYTES_PER_SAMPLE_BYTE[model_type], memory_bytes()
    if model_type == "unigram" and sample_bytes >= _TWO_GIGABYTES:
        factor += _MORE_OVER_TWO_GIGABYTES
    if sample_bytes * factor > machine:
        raise ValueError(
            f"a sample of {sample_bytes:,} bytes takes up to {sample_bytes * factor / 1e9:.1f} GB "
            f"of memory with {model_type}, and this machine has {machine / 1e9:.1f} GB; give "
            f"--sample_bytes={machine // factor} or less."
        )


def memory_bytes() -> int:
    """Gives the machine's memory, or what this process's container may use of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains or reports, and prints the report.

    Returns:
      The exit code: 0, or 2 if something is wrong with what was asked.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"vocabulary: {error}", file=sys.stderr)
        return 2
    return 0


def _train(options: argparse.Namespace) -> None:
    _check_free([options.out, *report_paths(options.out)], options.overwrite)
    config = VocabularyConfig(
        size=options.size,
        model_type=options.model_type,
        num_reserved=options.reserved,
        added=read_pieces(options.pieces) if options.pieces else (),
        character_coverage=options.character_coverage,
        num_threads=options.threads,
    )
    sampling = SampleConfig(
        max_bytes=options.sample_bytes,
        alpha=options.alpha,
        spoken_share=options.spoken,
        seed=options.seed,
    )
    sources = _sources(options)
    check_memory(min(options.sample_bytes, _most_text(sources)), options.model_type)
    sample = _draw(sources, sampling, options)
    check_held_out(sample)
    log.info("training %d pieces on %.1f MB", config.size, sample.num_bytes / 1e6)
    vocabulary = train_on(sample, options.out, config)
    log.info("wrote %s, %s", options.out, vocabulary.sha256)
    _report(vocabulary, sample, options.out)


def _report_only(options: argparse.Namespace) -> None:
    vocabulary = Vocabulary(options.model)
    out = options.out or options.model
    _check_free(report_paths(out), options.overwrite)
    sample = _draw(_sources(options), SampleConfig(max_bytes=0), options)
    _report(vocabulary, sample, out)


def _report(vocabulary: Vocabulary, sample: TextSample, out: Path) -> None:
    content = report(vocabulary, sample)
    for path in write_report(content, out):
        log.info("wrote %s", path)
    print(as_markdown(content))


def _draw(
    sources: Mapping[str, LocalFiles], config: SampleConfig, options: argparse.Namespace
) -> TextSample:
    sample = draw(sources, config, num_workers=options.num_workers, on_problem=options.on_problem)
    for language, text in sample.languages.items():
        for kind, count in text.problems["counts"].items():
            first = next(one for one in text.problems["examples"] if one["kind"] == kind)
            where = first["path"] + (f", line {first['line']}" if first["line"] else "")
            log.info("%s: left out %d x %s, first in %s", language, count, kind, where)
    return sample


def _sources(options: argparse.Namespace) -> dict[str, LocalFiles]:
    patterns: dict[str, list[str]] = {}
    for language, pattern in options.text:
        patterns.setdefault(language, []).append(pattern)
    return {
        language: LocalFiles(tuple(of_language), text_field=options.text_field)
        for language, of_language in patterns.items()
    }


def _most_text(sources: Mapping[str, LocalFiles]) -> float:
    """Gives the bytes of all files, or infinity where some are compressed."""
    paths = [path for source in sources.values() for path in matching_files(source.patterns)]
    plain = all(re.search(r"\.(txt|json|jsonl|json-lines|ndjson)$", path) for path in paths)
    return sum(map(file_bytes, paths)) if plain else math.inf


def _check_added(piece: str, others: Sequence[str]) -> None:
    reserved = re.escape(RESERVED_PIECE).replace(re.escape("{}"), r"\d+")
    if not piece or any(character.isspace() for character in piece):
        problem = "is empty or has white space"
    elif piece in SPECIAL_PIECES.values() or re.fullmatch(f"{reserved}|<0x[0-9A-F]{{2}}>", piece):
        problem = "is special, reserved or a byte, and has its place already"
    elif piece in others:
        problem = "is there twice"
    elif piece == "\u2581":
        problem = "is the sign for a space, which is a piece anyway"
    else:
        return
    raise ValueError(f"the piece to add {piece!r} {problem}; remove it, or give another.")


def _check_free(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises ValueError if a file is there already, or OSError if none can be written."""
    there = [str(path) for path in paths if path.exists()]
    if any(path.is_dir() for path in paths) or (there and not overwrite):
        raise ValueError(
            f"{', '.join(there)} is there already; name another file, or add --overwrite to "
            "replace files (never folders)."
        )
    folder = next(folder for folder in paths[0].absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"{paths[0]} cannot be written: {error}; name a file in a folder that can be."
        ) from error


def _text(argument: str) -> tuple[str, str]:
    language, _, pattern = argument.partition("=")
    try:
        check_language(language)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is not LANGUAGE=PATTERN: {error}"
        ) from error
    return language, pattern


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexatm_jax.data.vocabulary",
        description="Trains SentencePiece vocabularies and says how they suit a text.",
    )
    commands = parser.add_subparsers(required=True, metavar="train|report")
    _add_train(commands)
    _add_report(commands)
    return parser


def _add_train(commands: Any) -> None:
    training = commands.add_parser(
        "train",
        help="a vocabulary from text of several languages",
        description="Draws sentences, trains, and writes OUT and its .report.json, .report.md and "
        ".report.png. The same text and options give the same file, byte for byte, whatever "
        "--num_workers is. Exits with 2 if something is wrong with text or options.",
    )
    training.set_defaults(run=_train)
    training.add_argument("out", metavar="OUT.model", type=Path, help="the file to write")
    _add_text(training)
    plain, sample = VocabularyConfig(), SampleConfig()
    for name, kind, default, meaning in (
        ("--size", int, plain.size, "number of pieces, all kinds together"),
        ("--alpha", float, sample.alpha, "exponent of the languages' shares of the sentences"),
        ("--spoken", float, sample.spoken_share, "share of the sentences in spoken form"),
        (
            "--sample_bytes",
            int,
            sample.max_bytes,
            "bytes of text to draw; training takes up to "
            f"{BYTES_PER_SAMPLE_BYTE['unigram']} bytes of memory for each (unigram)",
        ),
        ("--reserved", int, plain.num_reserved, "number of tags to reserve"),
        ("--character_coverage", float, plain.character_coverage, "share of characters to cover"),
        (
            "--threads",
            int,
            plain.num_threads,
            "threads of SentencePiece, more than the machine has if need be: with unigram "
            "another number gives another vocabulary, since sums of floats then differ",
        ),
        ("--seed", int, sample.seed, "of the sample"),
    ):
        training.add_argument(
            name, type=kind, default=default, help=f"{meaning} (default: %(default)s)"
        )
    training.add_argument("--model_type", choices=BYTES_PER_SAMPLE_BYTE, default=plain.model_type)
    training.add_argument(
        "--pieces",
        metavar="FILE",
        type=Path,
        help="pieces to add by hand, one a line, with \u2581 for the space before a word; those "
        "longer than one character are kept whole wherever they occur, in the midst of words too",
    )


def _add_report(commands: Any) -> None:
    reporting = commands.add_parser(
        "report",
        help="how a vocabulary suits text",
        description="Measures a vocabulary on the sentences that `train` holds out of every "
        "sample, one in 20.",
    )
    reporting.set_defaults(run=_report_only)
    reporting.add_argument("model", metavar="MODEL", type=Path, help="a SentencePiece model")
    _add_text(reporting)
    reporting.add_argument(
        "--out", metavar="OUT", type=Path, help="name OUT.report.* (default: beside MODEL)"
    )


def _add_text(command: Any) -> None:
    command.add_argument(
        "--text",
        metavar="LANGUAGE=PATTERN",
        type=_text,
        action="append",
        required=True,
        help="files of one language, *.txt, *.jsonl, *.parquet and others; repeat it for more",
    )
    command.add_argument(
        "--text_field", default="text", help="field with the text (default: %(default)s)"
    )
    command.add_argument(
        "--on_problem",
        choices=("skip", "stop"),
        default="skip",
        help="what to do about text that cannot be read (default: %(default)s, and say so)",
    )
    command.add_argument(
        "--num_workers",
        type=int,
        default=os.cpu_count(),
        help="processes that read (default: one per core)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")
