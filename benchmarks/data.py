"""Times caching and reading beside `seqio.get_dataset` on the same task.

python -m benchmarks.data [--json] [--text LANG=PATTERN ...] [--vocabulary MODEL] [--seconds N]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alexatm_jax.data import vocabulary
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.decontamination import write_benchmark_ngrams
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.problems import Problems
from alexatm_jax.text.spoken import LANGUAGES
from alexatm_jax.whole_files import write_whole
from benchmarks import command, generated_text
from benchmarks.data_stages import OURS, Settings, text_path, write_cache, write_text
from benchmarks.timing import (
    BenchmarkError,
    Timing,
    Worker,
    available_cores,
    cpu_ratio,
    in_turns,
    machine,
    median_cpu_rate,
    median_rate,
    ratio,
    tell,
    versions,
)

PEER = ("SeqIO reading short", "SeqIO reading long", "SeqIO from text")

RATIOS = {
    "reading short, isolated / SeqIO": ("reading short, isolated", "SeqIO reading short"),
    "reading short, document_separator / SeqIO": (
        "reading short, document_separator",
        "SeqIO reading short",
    ),
    "reading long, isolated / SeqIO": ("reading long, isolated", "SeqIO reading long"),
    "reading long, document_separator / SeqIO": (
        "reading long, document_separator",
        "SeqIO reading long",
    ),
    "from text / SeqIO": ("from text", "SeqIO from text"),
    "caching, 2 processes / 1": ("caching, 2 processes", "caching, 1 process"),
}
"""Name to the two stages that are compared. SeqIO's packing shows no document another one, so
"isolated" is its equal; "document_separator" is the paper's way to fill a row."""

MEAN_SENTENCES = {"short": 1.5, "pages": 20.0, "long": 150.0}
LONG_DOCUMENT_CHARACTERS = 10_000
READ_CHARACTERS = 150_000
CACHED_CHARACTERS_PER_SECOND = 1_200_000
FEWEST_SECONDS_OF_CACHING = 4
VOCABULARY_SIZE = 8000
VOCABULARY_CHARACTERS = 60_000
BENCHMARK_TEXTS = 300

Texts = Callable[[str, str], Iterator[str]]
"""From language and kind to documents without end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `command.run`."""

    def measured(options: argparse.Namespace) -> dict[str, Any]:
        with TemporaryDirectory(prefix="benchmark_data_") as folder:
            return measure(options, Path(folder))

    return command.run(arguments, _parser(), measured, table)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepares a folder and times all stages over it, in turns.

    Returns:
      What --json prints: "tokens_per_second", "tokens_per_cpu_second", "rounds" (each round's
      tokens per second) by stage; "ratios" and "cpu_ratios"; "left_out" with the reason;
      "settings", "text", "versions", "machine".
    """
    settings, text = prepare(options, folder)
    left_out = _absent_peer()
    stages = [*OURS, *(() if left_out else PEER)]
    timings = _timings(stages, folder, options.rounds)
    compared = {
        name: (timings[ours], timings[theirs])
        for name, (ours, theirs) in RATIOS.items()
        if theirs in timings
    }
    return {
        "benchmark": "data",
        "tokens_per_second": {name: median_rate(found) for name, found in timings.items()},
        "tokens_per_cpu_second": {name: median_cpu_rate(found) for name, found in timings.items()},
        "rounds": {name: [one.per_second for one in found] for name, found in timings.items()},
        "ratios": {name: ratio(*pair) for name, pair in compared.items()},
        "cpu_ratios": {name: cpu_ratio(*pair) for name, pair in compared.items()},
        "left_out": dict.fromkeys(PEER, left_out) if left_out else {},
        "settings": asdict(settings) | {"rounds": options.rounds},
        "text": text,
        "versions": versions("numpy", "sentencepiece", "grain", "seqio", "tensorflow"),
        "machine": machine(),
    }


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Settings, dict[str, Any]]:
    """Writes texts, vocabulary, n-grams, caches and settings; describes the text."""
    texts, languages, origin = _texts(options.text)
    settings = Settings(options.seconds, languages)
    settings.write(folder)
    tell(f"writing text in {len(languages)} languages")
    for kind, language in itertools.product(("short", "long"), languages):
        write_text(text_path(folder, kind, language), texts(language, kind), READ_CHARACTERS)
    seconds = max(options.seconds, FEWEST_SECONDS_OF_CACHING)
    each = int(CACHED_CHARACTERS_PER_SECOND * seconds) // len(languages)
    for language in languages:
        write_text(text_path(folder, "pages", language), texts(language, "pages"), each)
    benchmarks = {
        name: itertools.islice(texts(name, "short"), BENCHMARK_TEXTS) for name in languages
    }
    write_benchmark_ngrams(folder / "benchmarks.ngrams", benchmarks)
    held = _vocabulary(options.vocabulary, folder, languages)
    tell(f"caching what is read, with a vocabulary of {held.size} pieces")
    tokens = {
        kind: write_cache(folder / "cache", folder, settings, kind) for kind in ("short", "long")
    }
    return settings, {"origin": origin, "vocabulary_size": held.size, "tokens": tokens}


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    lines = [
        f"{'stage':<40}{'tokens/s':>12}{'lowest':>12}{'highest':>12}{'per CPU s':>12}",
    ]
    for name, rate in result["tokens_per_second"].items():
        rounds, cpu = result["rounds"][name], result["tokens_per_cpu_second"][name]
        lines.append(
            f"{name:<40}{rate:>12,.0f}{min(rounds):>12,.0f}{max(rounds):>12,.0f}{cpu:>12,.0f}"
        )
    lines += ["", f"{'ratio':<40}{'by the clock':>24}{'per CPU s':>24}"]
    for name, value in result["ratios"].items():
        lines.append(f"{name:<40}{value:>24.2f}{result['cpu_ratios'][name]:>24.2f}")
    lines += ["", *(f"{name}: left out, {reason}" for name, reason in result["left_out"].items())]
    settings = result["settings"]
    lines.append(
        f"Medians of {settings['rounds']} rounds in turns. Caching counts text tokens, reading "
        "encoder and decoder tokens without padding. All but caching with 2 processes have one "
        f"core. Rows of {settings['length']} + {settings['length']}, text: "
        f"{result['text']['origin']}."
    )
    return "\n".join(lines)


def _timings(stages: Sequence[str], folder: Path, rounds: int) -> dict[str, list[Timing]]:
    cores = available_cores()
    with ExitStack() as stack:
        workers = {}
        for stage in stages:
            own = cores[:2] if "2 processes" in stage else cores[-1:]
            log = folder / f"{stage.replace(' ', '_').replace('/', '_')}.log"
            module = "data_stages" if stage in OURS else "seqio_peer"
            command = ["-m", f"benchmarks.{module}", stage, str(folder)]
            workers[stage] = Worker(command, log, own)
            stack.callback(workers[stage].close)
        for stage, worker in workers.items():
            worker.ready()
            tell(f"ready: {stage}")
        measures = {stage: worker.measure for stage, worker in workers.items()}
        return in_turns(measures, rounds, tell)


def _absent_peer() -> str | None:
    missing = [name for name in ("seqio", "tensorflow") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


def _texts(patterns: Sequence[tuple[str, str]]) -> tuple[Texts, tuple[str, ...], str]:
    """Gives the documents by language and kind, the languages, and where it comes from."""
    if not patterns:
        return _generated, tuple(generated_text.SCRIPTS), "generated, 12 invented languages"
    files: dict[str, list[str]] = {}
    for language, pattern in patterns:
        files.setdefault(language, []).append(pattern)
    if unknown := sorted(set(files) - set(LANGUAGES)):
        raise BenchmarkError(f"--text names {unknown}; the languages are {', '.join(LANGUAGES)}.")
    sources = {language: LocalFiles(named) for language, named in files.items()}
    return partial(_from_files, sources), tuple(sources), f"files in {', '.join(sources)}"


def _generated(language: str, kind: str) -> Iterator[str]:
    return generated_text.documents(language, MEAN_SENTENCES[kind])


def _from_files(sources: Mapping[str, LocalFiles], language: str, kind: str) -> Iterator[str]:
    """Goes round and round the documents of a language; long ones are many in a row."""
    documents = _round_and_round(sources[language], language)
    return _joined(documents) if kind == "long" else documents


def _round_and_round(source: LocalFiles, language: str) -> Iterator[str]:
    units = source.units()
    while True:
        found = False
        for unit in units:
            for document in source.documents(unit, Problems()):
                found = True
                yield document
        if not found:
            raise BenchmarkError(f"the files of {language!r} hold no document; give others.")


def _joined(documents: Iterator[str]) -> Iterator[str]:
    parts: list[str] = []
    for document in documents:
        parts.append(document)
        if sum(map(len, parts)) >= LONG_DOCUMENT_CHARACTERS:
            yield " ".join(parts)
            parts = []


def _vocabulary(given: Path | None, folder: Path, languages: Sequence[str]) -> Vocabulary:
    """Takes the vocabulary that is given, or trains a unigram one on a sample of the texts."""
    path = folder / "vocabulary.model"
    if given is not None:
        write_whole(path, Vocabulary(given).path.read_bytes())
        return Vocabulary(path)
    tell("training a vocabulary")
    lines = []
    for language in languages:
        text = text_path(folder, "short", language).read_text(encoding="utf-8")
        lines += text[:VOCABULARY_CHARACTERS].splitlines()
    return vocabulary.train(lines, path, size=VOCABULARY_SIZE, model_type="unigram")


def _language_and_pattern(argument: str) -> tuple[str, str]:
    language, equals, pattern = argument.partition("=")
    if not (language and equals and pattern):
        raise argparse.ArgumentTypeError(f"{argument!r} is not LANG=PATTERN, such as de=de/*.txt")
    return language, pattern


def _positive(argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{argument!r} is no positive number")
    return value


def _count(argument: str) -> int:
    if not (argument.isdecimal() and int(argument)):
        raise argparse.ArgumentTypeError(f"{argument!r} is no number of rounds")
    return int(argument)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("data", __doc__)
    parser.add_argument(
        "--text",
        type=_language_and_pattern,
        action="append",
        default=[],
        metavar="LANG=PATTERN",
        help="files in one of the 12 languages; repeat it (default: generated text in all)",
    )
    parser.add_argument("--vocabulary", type=Path, metavar="MODEL", help="(default: trained)")
    parser.add_argument("--seconds", type=_positive, default=5.0, help="a measurement lasts")
    parser.add_argument("--rounds", type=_count, default=3, help="measurements of each stage")
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
