"""The cache folder: tokenized documents, mixtures and evaluation tasks on disk.

    {cache_dir}/vocabulary.model
    {cache_dir}/corpora/{corpus}/documents.array_record-00000-of-00001, ...
    {cache_dir}/corpora/{corpus}/provenance.json
    {cache_dir}/mixtures/{mixture}.json
    {cache_dir}/evaluation/{task}.json

Training and evaluation read it without TensorFlow or SeqIO. Everything is written under a
temporary name and renamed, so that nothing half-written can pass for whole.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alexatm_jax.data.objectives import objective_from_spec
from alexatm_jax.data.records import REMAKE, CacheError, TokenSource, write_records
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.whole_files import write_json, write_whole

logger = logging.getLogger(__name__)

_DTYPES = ("uint16", "int32")
_SHOWN_TOKENS = 48
_T = TypeVar("_T")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Provenance:
    """Where a corpus comes from, and how much of it there is.

    Attributes:
      corpus: name of the corpus, its folder's name too.
      split: split of the source that was read.
      source: description of the source, compared before a corpus is used again.
      vocabulary_sha256: hash of the vocabulary file that tokenized it.
      num_documents: documents written, each with at least one token.
      num_tokens: tokens in all of them.
      num_empty: documents skipped because they had no token.
      dtype: how a record stores its tokens, "uint16" or "int32".
    """

    corpus: str
    split: str
    source: str
    vocabulary_sha256: str
    num_documents: int
    num_tokens: int
    num_empty: int
    dtype: str

    def __post_init__(self) -> None:
        if self.num_documents < 1 or self.num_tokens < self.num_documents:
            raise CacheError(
                f"corpus {self.corpus!r} has {self.num_documents} documents with "
                f"{self.num_tokens} tokens ({self.num_empty} more were empty) from "
                f"{self.source}; it needs a document, and a token in each; check the "
                "source."
            )
        if self.dtype not in _DTYPES:
            raise CacheError(
                f"corpus {self.corpus!r} stores {self.dtype!r}, not one of {_DTYPES}; {REMAKE}."
            )


@dataclass(frozen=True)
class TaskSpec:
    """One task of a mixture: a corpus, a rate and what the objective's `spec()` gives."""

    name: str
    corpus: str
    rate: float
    objective: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise CacheError(
                f"task {self.name!r} has the rate {self.rate}; give a positive number or "
                "leave the task out."
            )
        objective_from_spec(self.objective)


@dataclass(frozen=True)
class MixtureSpec:
    """Tasks to draw from, in proportion to their rates, and their common vocabulary."""

    mixture: str
    vocabulary_sha256: str
    tasks: tuple[TaskSpec, ...]

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise CacheError(
                f"mixture {self.mixture!r} has the tasks {names}; it needs one or more, "
                "each with its own name."
            )


@dataclass(frozen=True)
class CachedCorpus:
    """The documents of a corpus and where they come from."""

    provenance: Provenance
    source: TokenSource

    @property
    def num_documents(self) -> int:
        return self.provenance.num_documents


def install_vocabulary(cache_dir: PathLike, vocabulary: Vocabulary) -> None:
    """Puts a vocabulary into a cache, making the folder if need be.

    Raises:
      CacheError: if the cache holds another vocabulary; it is left alone.
    """
    path = _vocabulary_path(cache_dir)
    if path.exists():
        check_vocabulary(cache_dir, vocabulary.sha256, f"{vocabulary.path}")
    else:
        write_whole(path, vocabulary.path.read_bytes())


def read_vocabulary(cache_dir: PathLike) -> Vocabulary:
    """Reads the vocabulary of a cache.

    Raises:
      ValueError: if there is no cache, no vocabulary in it, or one that cannot be read.
    """
    _check_is_cache(cache_dir)
    return Vocabulary(_vocabulary_path(cache_dir))


def check_vocabulary(cache_dir: PathLike, sha256: str, owner: str) -> None:
    """Raises CacheError if a cache holds another vocabulary than `owner` was made with."""
    path = _vocabulary_path(cache_dir)
    if not path.exists():
        return
    held = hashlib.sha256(path.read_bytes()).hexdigest()
    if held != sha256:
        raise CacheError(
            f"{owner} has the vocabulary {sha256}, but {path} is {held}; tokens of the one "
            "mean nothing in the other; use the cache that belongs to it, or a new folder."
        )


def write_corpus(
    cache_dir: PathLike,
    corpus: str,
    documents: Iterable[np.ndarray],
    *,
    split: str,
    source: str,
    vocabulary_sha256: str,
    vocabulary_size: int | None = None,
    shard_bytes: int = 1 << 30,
) -> Provenance:
    """Writes tokenized documents; they appear all at once, or not at all.

    Args:
      cache_dir: folder of the cache.
      corpus: name, not yet in the cache.
      documents: integer arrays [N] without `<s>` and `</s>`; empty ones are skipped.
      split: split of the source.
      source: description of the source.
      vocabulary_sha256: hash of the vocabulary that tokenized them.
      vocabulary_size: V, if known: ids are then checked, and take 2 bytes if V <= 65536.
      shard_bytes: a new file is begun once one holds so many bytes of tokens.

    Raises:
      CacheError: if the corpus exists, the cache's vocabulary is another, a document is no
        array of token ids, or all are empty.
    """
    folder = _corpus_folder(cache_dir, corpus)
    if folder.exists():
        raise CacheError(f"{folder} is already there; remove it if it is to be replaced.")
    check_vocabulary(cache_dir, vocabulary_sha256, f"corpus {corpus!r}")
    num_ids = vocabulary_size or np.iinfo(np.int32).max
    dtype = "uint16" if num_ids <= 1 << 16 else "int32"
    temporary = folder.with_name(f".{corpus}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        counts = write_records(temporary, documents, dtype, num_ids, shard_bytes)
        provenance = Provenance(corpus, split, source, vocabulary_sha256, *counts, dtype)
        write_json(temporary / "provenance.json", asdict(provenance))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return provenance


def ensure_corpus(
    cache_dir: PathLike,
    corpus: str,
    documents: Iterable[np.ndarray],
    *,
    split: str,
    source: str,
    vocabulary: Vocabulary,
) -> Provenance:
    """Writes a corpus, unless it is in the cache already; then `documents` stay unread.

    Raises:
      CacheError: as `write_corpus` and `read_corpus`, or if the corpus in the cache has
        another split or source.
    """
    if _corpus_folder(cache_dir, corpus).is_dir():
        held = read_corpus(cache_dir, corpus).provenance
        if (held.split, held.source) != (split, source):
            raise CacheError(
                f"corpus {corpus!r} of {cache_dir} is split {held.split!r} of "
                f"{held.source}, not split {split!r} of {source}; use another cache, or "
                "remove this corpus."
            )
        logger.info("Corpus %s is in %s already.", corpus, cache_dir)
        return held
    start = time.monotonic()
    written = write_corpus(
        cache_dir,
        corpus,
        documents,
        split=split,
        source=source,
        vocabulary_sha256=vocabulary.sha256,
        vocabulary_size=vocabulary.size,
    )
    speed = written.num_tokens / (time.monotonic() - start)
    logger.info(
        "cached corpus %s (%s): %d documents, %d tokens, %.0f tokens/s; %d empty left out",
        *(corpus, source, written.num_documents, written.num_tokens, speed, written.num_empty),
    )
    return written


def read_corpus(cache_dir: PathLike, corpus: str) -> CachedCorpus:
    """Opens a corpus of the cache.

    Raises:
      CacheError: if it is unknown or unreadable, its counts disagree with its records, or
        the cache's vocabulary is another.
    """
    _check_is_cache(cache_dir)
    folder = _corpus_folder(cache_dir, corpus)
    if not folder.is_dir():
        raise CacheError(_unknown("corpus", corpus, folder.parent.glob("[!.]*")))
    provenance = _parsed(Provenance, _read_json(folder / "provenance.json"), folder)
    check_vocabulary(cache_dir, provenance.vocabulary_sha256, f"corpus {corpus!r}")
    source = TokenSource(folder, provenance.dtype)
    if len(source) != provenance.num_documents:
        raise CacheError(
            f"{folder} holds {len(source)} documents, but its provenance.json says "
            f"{provenance.num_documents}; {REMAKE}."
        )
    return CachedCorpus(provenance, source)


def write_mixture(cache_dir: PathLike, spec: MixtureSpec) -> None:
    """Writes a mixture; one of the same name and vocabulary is replaced.

    Raises:
      CacheError: if the cache's vocabulary is another.
    """
    check_vocabulary(cache_dir, spec.vocabulary_sha256, f"mixture {spec.mixture!r}")
    write_json(_json_path(cache_dir, "mixtures", spec.mixture), asdict(spec))


def read_mixture(cache_dir: PathLike, name: str) -> MixtureSpec:
    """Reads a mixture.

    Raises:
      CacheError: if it is unknown (the message gives the nearest names) or broken, or the
        cache's vocabulary is another.
    """
    _check_is_cache(cache_dir)
    path = _json_path(cache_dir, "mixtures", name)
    if not path.is_file():
        raise CacheError(_unknown("mixture", name, path.parent.glob("[!.]*.json")))
    content = _read_json(path)
    tasks = [_parsed(TaskSpec, task, path) for task in content.get("tasks", ())]
    spec = _parsed(MixtureSpec, content | {"tasks": tuple(tasks)}, path)
    check_vocabulary(cache_dir, spec.vocabulary_sha256, f"mixture {name!r}")
    return spec


def write_evaluation_task(cache_dir: PathLike, payload: Mapping[str, Any]) -> None:
    """Writes what `evaluation.prompts.FewShotTask.from_payload` reads.

    Raises:
      CacheError: if the payload has other keys than name, prompt, items and shots.
    """
    _check_payload(payload, "an evaluation task")
    write_json(_json_path(cache_dir, "evaluation", payload["name"]), payload)


def read_evaluation_task(cache_dir: PathLike, name: str) -> dict[str, Any]:
    """Reads an evaluation task, for `evaluation.prompts.FewShotTask.from_payload`.

    Raises:
      CacheError: if it is unknown (the message gives the nearest names) or broken.
    """
    _check_is_cache(cache_dir)
    path = _json_path(cache_dir, "evaluation", name)
    if not path.is_file():
        raise CacheError(_unknown("evaluation task", name, path.parent.glob("[!.]*.json")))
    payload = _read_json(path)
    _check_payload(payload, str(path))
    return payload


def rendered_example(cache_dir: PathLike, task: TaskSpec, *, index: int = 0, seed: int = 0) -> str:
    """Shows, for human eyes, what the encoder reads and the decoder writes in one task.

    Args:
      cache_dir: folder of the cache.
      task: a task of one of its mixtures.
      index: document to show; a long one is cut short.
      seed: of the objective's choices.
    """
    vocabulary = read_vocabulary(cache_dir)
    document = read_corpus(cache_dir, task.corpus).source[index][:_SHOWN_TOKENS]
    lines = [f"{task.name} ({task.objective['kind']}, rate {task.rate:.3g})"]
    if len(document) > 1:
        objective = objective_from_spec(task.objective)
        rng = np.random.default_rng(seed)
        encoder_tokens, targets = objective(document, vocabulary.special, rng)
        lines.append(f"  encoder: {vocabulary.render(encoder_tokens)}")
        lines.append(f"  decoder: {vocabulary.render(targets)}")
    else:
        lines.append(f"  document {index} is a single token: {vocabulary.render(document)}")
    return "\n".join(lines)


def _vocabulary_path(cache_dir: PathLike) -> Path:
    return Path(cache_dir) / "vocabulary.model"


def _checked(name: str) -> str:
    """Names become file names, so nothing in them may lead elsewhere or hide the file."""
    if not re.fullmatch(r"[\w:-][\w.:-]*", name):
        raise CacheError(
            f"{name!r} cannot name a file of the cache; use letters, digits and _ - : ."
        )
    return name


def _corpus_folder(cache_dir: PathLike, corpus: str) -> Path:
    return Path(cache_dir) / "corpora" / _checked(corpus)


def _json_path(cache_dir: PathLike, kind: str, name: str) -> Path:
    return Path(cache_dir) / kind / f"{_checked(name)}.json"


def _check_is_cache(cache_dir: PathLike) -> None:
    corpora = Path(cache_dir) / "corpora"
    if not corpora.exists() and not _vocabulary_path(cache_dir).exists():
        raise CacheError(
            f"{cache_dir} is no cache: it has neither vocabulary.model nor corpora/; name "
            "a folder written with --run_mode=cache, or write one."
        )


def _unknown(kind: str, name: str, paths: Iterable[Path]) -> str:
    known = sorted(path.name.removesuffix(".json") for path in paths)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none at all"]
    return (
        f"the cache has no {kind} {name!r}; the nearest of its {len(known)} are "
        f"{', '.join(near)}; name one, or write it with --run_mode=cache."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be read ({error}); {REMAKE}.") from error
    if not isinstance(content, dict):
        raise CacheError(f"{path} holds {type(content).__name__}, not an object; {REMAKE}.")
    return content


def _parsed(cls: type[_T], content: Mapping[str, Any], path: Path) -> _T:
    try:
        return cls(**content)
    except TypeError as error:
        needed = list(inspect.signature(cls).parameters)
        raise CacheError(
            f"{path} has {sorted(content)} where {needed} are needed ({error}); {REMAKE}."
        ) from error


def _check_payload(payload: Mapping[str, Any], owner: str) -> None:
    needed = {"name", "prompt", "items", "shots"}
    if set(payload) != needed:
        raise CacheError(
            f"{owner} has {sorted(payload)}; it needs {sorted(needed)}; make it with "
            "seqio_cache.evaluation_payload."
        )
