"""Which evaluation sets a sentence shares a 13-gram with, from one file that is mapped into memory.

python -m alexatm_jax.text.decontamination OUT NAME=PATTERN [NAME=PATTERN ...]

The paper filters known benchmarks out of its training text by 13-gram overlap per sentence (recipe
§2). Keeping sorted 64-bit hashes rather than n-grams is our choice, and so is a table of bits by
which most sentences are cleared without a search: 12 to 14 bytes for each n-gram of each evaluation
set, 1.3 GB for 10^8, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from alexatm_jax.text.benchmark_texts import texts_of_files
from alexatm_jax.text.ngrams import ORDER, anchors_of, hashes_of_words, words_of
from alexatm_jax.text.problems import TextError
from alexatm_jax.text.sorted_runs import HASH, OWNER, SortedRuns, changes
from alexatm_jax.whole_files import write_whole

_MAGIC = b"alexatm 13grams1"
_BYTE = np.dtype(np.uint8)
_ANCHOR_BITS = 32
_BITS_PER_NGRAM = 16
"""Bits of the table of anchors: of every sixteen or more, one is set."""

_REMAKE = "write it with python -m alexatm_jax.text.decontamination"


@dataclass(frozen=True)
class BenchmarkCounts:
    """What one evaluation set brought.

    Attributes:
      texts: its strings.
      too_short: those of them that are lighter than one 13-gram, and so find nothing.
      ngrams: its distinct 13-grams.
    """

    texts: int
    too_short: int
    ngrams: int


class BenchmarkNgrams:
    """The 13-grams of evaluation sets, out of a file of `write_benchmark_ngrams`.

    Pickles as its path. Opening reads the file once, to compare its checksum.

    Attributes:
      path: the file.
      counts: what each evaluation set brought, by name, in the order written.
      sha256: identity of the file's content, in hexadecimal.
      false_positive_rate: probability that one 13-gram of none of the evaluation sets is taken for
        one of theirs, at most: distinct hashes / 2^64.
    """

    def __init__(self, path: str | Path) -> None:
        """Maps the file.

        Raises:
          TextError: if it cannot be read, is no such file, or is damaged or cut short.
        """
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                footer, self.sha256 = _read_footer(file, self.path)
                entries, start = footer["entries"], len(_MAGIC)
                self._hashes = _mapped(file, HASH, start, entries)
                start += self._hashes.nbytes
                self._owners = _mapped(file, OWNER, start, entries)
                start += self._owners.nbytes
                self._anchors = _mapped(file, _BYTE, start, footer["anchor_bytes"]).data
        except OSError as error:
            raise TextError(f"{self.path} cannot be read ({error}); {_REMAKE}.") from error
        self.counts = {
            name: BenchmarkCounts(**counts) for name, counts in footer["benchmarks"].items()
        }
        self.false_positive_rate = footer["distinct"] / 2 ** footer["hash_bits"]
        self._dropped_bits = np.uint64(64 - footer["hash_bits"])
        self._anchor_shift = _ANCHOR_BITS + 1 - (8 * len(self._anchors)).bit_length()

    def __reduce__(self) -> tuple[type[BenchmarkNgrams], tuple[Path]]:
        return BenchmarkNgrams, (self.path,)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the evaluation sets."""
        return tuple(self.counts)

    def shared_with(self, sentence: str) -> tuple[str, ...]:
        """Names the evaluation sets that share a 13-gram with a sentence, in the order written."""
        words = words_of(sentence)
        if not self._may_share(words):
            return ()
        hashes = hashes_of_words(words)
        found = self.holds(hashes)
        if not np.count_nonzero(found):
            return ()
        hashes = hashes[found] >> self._dropped_bits
        starts = self._hashes.searchsorted(hashes)
        stops = self._hashes.searchsorted(hashes, side="right")
        spans = zip(starts, stops, strict=True)
        owners = {int(owner) for start, stop in spans for owner in self._owners[start:stop]}
        return tuple(self.benchmarks[owner] for owner in sorted(owners))

    def _may_share(self, words: list[bytes]) -> bool:
        """Whether some anchor is in the table of anchors, which has 16 times as many bits."""
        anchors, shift = self._anchors, self._anchor_shift
        for anchor in anchors_of(words, sparse=True):
            bit = anchor >> shift
            if anchors[bit >> 3] >> (bit & 7) & 1:
                return True
        return False

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """Says of each hash of `ngrams.ngram_hashes`, uint64 [N], whether it is here: bool [N]."""
        if not len(hashes) or not len(self._hashes):
            return np.zeros(len(hashes), bool)
        hashes = hashes >> self._dropped_bits
        # Beyond the end, the last one stands in: it is smaller than what is looked for.
        nearest = self._hashes.take(self._hashes.searchsorted(hashes), mode="clip")
        return nearest == hashes


def write_benchmark_ngrams(
    path: str | Path, texts: Mapping[str, Iterable[str]], *, hash_bits: int = 64
) -> BenchmarkNgrams:
    """Writes the 13-grams of evaluation sets to one file, whole or not at all.

    Takes about 180 MB of memory whatever their number, and for each n-gram 18 bytes of disk
    while at work: temporary files beside the path that have no name, so that nothing of them stays.

    Args:
      path: file to write, or to replace if it is of this kind.
      texts: the strings of each evaluation set, by name; each is read once, in this order.
      hash_bits: bits kept of each hash, from 8 to 64; fewer are there to measure false positives.

    Raises:
      TextError: if there is no evaluation set, one has no text, or the path is something else.
    """
    path = Path(path)
    if not texts:
        raise TextError("no evaluation sets are given; name at least one, with its texts.")
    if not 8 <= hash_bits <= 64:
        raise ValueError(f"hash_bits is {hash_bits}; keep 8 to 64 bits of each hash.")
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = tempfile.TemporaryFile
    with unnamed(dir=path.parent) as ngram_file, unnamed(dir=path.parent) as anchor_file:
        ngrams = SortedRuns(ngram_file, hash_bits)
        anchors = SortedRuns(anchor_file, _ANCHOR_BITS)
        read = {name: Counter(texts=0, too_short=0) for name in texts}
        for owner, name in enumerate(texts):
            for words in _words_of_texts(name, texts[name]):
                hashes = hashes_of_words(words)
                read[name]["texts"] += 1
                read[name]["too_short"] += not len(hashes)
                if len(hashes):
                    ngrams.add(owner, hashes >> np.uint64(64 - hash_bits))
                    anchors.add(0, np.array(anchors_of(words), np.uint64))
        write_whole(path, lambda draft: _write(draft, ngrams, anchors, read, hash_bits))
    return BenchmarkNgrams(path)


def _check_replaceable(path: Path) -> None:
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            replaceable = file.read(len(_MAGIC)) == _MAGIC
    else:
        replaceable = not path.is_dir()
    if not replaceable:
        raise TextError(
            f"{path} is there and holds no 13-grams of evaluation sets; name another file to write."
        )


def _words_of_texts(name: str, texts: Iterable[str]) -> Iterator[list[bytes]]:
    if isinstance(texts, str):
        raise TextError(f"the texts of {name!r} are one string; give a sequence of strings.")
    empty = True
    for text in texts:
        empty = False
        yield words_of(text)
    if empty:
        raise TextError(f"the evaluation set {name!r} has no texts; give some, or leave it out.")


def _write(
    draft: Path,
    ngrams: SortedRuns,
    anchors: SortedRuns,
    read: Mapping[str, Counter[str]],
    hash_bits: int,
) -> None:
    """Writes hashes, their owners, the table of anchors, counts, and the SHA-256 of all that."""
    with draft.open("w+b") as file:
        file.write(_MAGIC)
        distinct = _write_ngrams(file, ngrams, read)
        entries = sum(counts["ngrams"] for counts in read.values())
        footer = {
            "hash_bits": hash_bits,
            "entries": entries,
            "distinct": distinct,
            "anchor_bytes": _write_anchors(file, anchors, entries),
            "benchmarks": read,
        }
        written = json.dumps(footer, ensure_ascii=False).encode()
        file.write(written + len(written).to_bytes(8, "little"))
    with draft.open("r+b") as file:
        file.write(hashlib.file_digest(file, "sha256").digest())


def _write_ngrams(file: IO[bytes], ngrams: SortedRuns, read: Mapping[str, Counter[str]]) -> int:
    """Counts the n-grams of each evaluation set, and gives the number of distinct ones."""
    counts, distinct = np.zeros(len(read), np.int64), 0
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as owner_file:
        for hashes, owners in ngrams.merged():
            file.write(hashes.tobytes())
            owner_file.write(owners.tobytes())
            counts += np.bincount(owners, minlength=len(read))
            distinct += int(np.count_nonzero(changes(hashes)))
        owner_file.seek(0)
        shutil.copyfileobj(owner_file, file)
    for counted, count in zip(read.values(), counts.tolist(), strict=True):
        counted["ngrams"] = count
    return distinct


def _write_anchors(file: IO[bytes], anchors: SortedRuns, entries: int) -> int:
    """Sets one bit for each anchor, in a table of a power of two; gives its length in bytes."""
    table_bits = min(_ANCHOR_BITS, max(3, (_BITS_PER_NGRAM * entries - 1).bit_length()))
    num_bytes = 1 << table_bits - 3
    start = file.tell()
    file.truncate(start + num_bytes)
    table = np.memmap(file, _BYTE, "r+", start, (num_bytes,))
    for found, _ in anchors.merged():
        bits = found >> np.uint64(_ANCHOR_BITS - table_bits)
        np.bitwise_or.at(table, bits >> 3, np.uint8(1) << (bits & 7).astype(np.uint8))
    table.flush()
    file.seek(start + num_bytes)
    return num_bytes


def _read_footer(file: IO[bytes], path: Path) -> tuple[dict[str, Any], str]:
    """Checks the file as a whole; gives what its writer counted, and its SHA-256."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise TextError(f"{path} holds no 13-grams of evaluation sets; {_REMAKE}.")
    end = file.seek(0, os.SEEK_END) - hashlib.sha256().digest_size
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(1 << 16, max(0, end - file.tell()))):
        digest.update(block)
    if file.read() != digest.digest():
        raise TextError(f"{path} is damaged or cut short; {_REMAKE}.")
    file.seek(end - 8)
    length = int.from_bytes(file.read(8), "little")
    file.seek(end - 8 - length)
    return json.loads(file.read(length)), digest.hexdigest()


def _mapped(file: IO[bytes], dtype: np.dtype, start: int, length: int) -> np.ndarray:
    if not length:
        return np.empty(0, dtype)
    # As a plain array: each step on a np.memmap costs a microsecond more.
    return np.asarray(np.memmap(file, dtype, "r", start, (length,)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file and prints what each evaluation set brought.

    Returns:
      The exit code: 0, or 2 if something is wrong with the input; then nothing was written.
    """
    options = _parser().parse_args(arguments)
    patterns: dict[str, list[str]] = {}
    for name, pattern in options.sets:
        patterns.setdefault(name, []).append(pattern)
    try:
        texts = {name: texts_of_files(patterns[name]) for name in patterns}
        written = write_benchmark_ngrams(options.out, texts)
    except ValueError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{options.out} cannot be written ({error}); make room, or name another.")
    print(_table(written))
    return 0


def _refuse(reason: str) -> int:
    print(f"decontamination: {reason}", file=sys.stderr)
    return 2


def _table(written: BenchmarkNgrams) -> str:
    width = max(len("evaluation set"), *map(len, written.benchmarks))
    lines = [f"{'evaluation set':{width}} {'strings':>12} {'too short':>12} {'13-grams':>12}"]
    for name, counts in written.counts.items():
        numbers = (counts.texts, counts.too_short, counts.ngrams)
        lines.append(f"{name:{width}}" + "".join(f" {number:12,}" for number in numbers))
        if not counts.ngrams:
            lines.append(f"  nothing will be dropped for {name}: it has no {ORDER} words in a row")
    lines.append(
        f"{written.path}: {written.path.stat().st_size:,} bytes, sha256 {written.sha256}; "
        f"{written.false_positive_rate:.1e} false positives a 13-gram looked up"
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexatm_jax.text.decontamination",
        description="Writes the 13-grams of evaluation sets to one file, by which sentences that "
        "share one are dropped from pre-training text. Exits with 2, having written nothing, if "
        "something is wrong with the input.",
    )
    parser.add_argument("out", metavar="OUT", type=_out, help="the file to write or replace")
    parser.add_argument(
        "sets",
        metavar="NAME=PATTERN",
        nargs="+",
        type=_named_pattern,
        help="an evaluation set and its files, as in 'xnli=data/xnli/*.tsv': txt, tsv, csv, json, "
        "jsonl or xml, also .gz or .zst; a name may come again with more files",
    )
    return parser


def _out(text: str) -> str:
    if "=" in text:
        raise argparse.ArgumentTypeError(f"{text!r} has a '='; name the file to write first")
    return text


def _named_pattern(text: str) -> tuple[str, str]:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATTERN, as in 'xnli=xnli/*.tsv'")
    return name, pattern


if __name__ == "__main__":
    sys.exit(main())
