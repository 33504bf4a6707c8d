"""The stages that `benchmarks.data` times: each is a worker process over one folder.

python -m benchmarks.data_stages STAGE FOLDER
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alexatm_jax.data import cache
from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.corpora.writing import CorpusJob, write_corpora
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.objectives import Objective
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import ReaderConfig, open_reader
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.preparation import Preparation
from benchmarks.timing import Timing, serve, timed

OBJECTIVES: dict[str, tuple[Objective, float]] = {
    "denoising": (Denoising(), 0.8),
    "clm": (CausalLM(), 0.2),
}
"""The paper's, with their shares: recipe §3."""

READ_KINDS = ("short", "long")
"""Of the documents that are read: a sentence or two, or thousands of tokens."""

Measure = Callable[[], Timing]


@dataclass(frozen=True)
class Settings:
    """What all stages have in common.

    Args:
      seconds: that one measurement of reading takes at least.
      languages: of the text, in equal shares.
      length: of either side of a row, tokens.
      batch_size, num_streams, seed: as in `pipeline.ReaderConfig`.
    """

    seconds: float
    languages: tuple[str, ...]
    length: int = 1024
    batch_size: int = 16
    num_streams: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; measure for a positive time.")
        if not self.languages:
            raise ValueError("there is no language; give text in one or more.")

    def reader(self, packing: str) -> ReaderConfig:
        """How batches are made of these languages."""
        return ReaderConfig(
            self.batch_size, self.length, self.length, self.seed, self.num_streams, packing
        )

    def write(self, folder: Path) -> None:
        """Leaves the settings where workers find them."""
        (folder / "settings.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Settings:
        """Reads what `write` left."""
        content = json.loads((folder / "settings.json").read_bytes())
        return Settings(**content | {"languages": tuple(content["languages"])})


def text_path(folder: Path, kind: str, language: str) -> Path:
    """The documents of one language and kind, one a line."""
    return folder / "text" / f"{kind}_{language}.txt"


def write_text(path: Path, documents: Iterable[str], num_characters: int) -> None:
    """Writes the first documents that have so many characters, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            num_characters -= file.write(" ".join(document.split()) + "\n")
            if num_characters <= 0:
                return


def write_cache(
    cache_dir: Path, folder: Path, settings: Settings, kind: str, *, num_workers: int = 1
) -> int:
    """Caches the documents of one kind and a mixture of that name; gives their tokens.

    Pages are cached as the paper's spoken text, benchmark sentences dropped; other kinds as they
    are, as the peer reads them.
    """
    vocabulary = Vocabulary(folder / "vocabulary.model")
    cache.install_vocabulary(cache_dir, vocabulary)
    jobs = []
    for language in settings.languages:
        path = text_path(folder, kind, language)
        # Units enough to keep two processes busy to the end, as in a large corpus.
        documents = LocalFiles(str(path), unit_bytes=max(path.stat().st_size // 4, 1))
        benchmarks = str(folder / "benchmarks.ngrams")
        spoken = Preparation(language, "spoken", benchmarks) if kind == "pages" else None
        jobs.append(CorpusJob(f"{kind}_{language}", "train", documents, spoken, vocabulary))
    written = write_corpora(cache_dir, jobs, num_workers=num_workers)
    tasks = tuple(
        cache.TaskSpec(f"{kind}_{language}_{name}", f"{kind}_{language}", rate, objective.spec())
        for language, (name, (objective, rate)) in itertools.product(
            settings.languages, OBJECTIVES.items()
        )
    )
    cache.write_mixture(cache_dir, cache.MixtureSpec(kind, vocabulary.sha256, tasks))
    return sum(provenance.num_tokens for provenance in written.values())


def filled(batch: dict[str, np.ndarray]) -> int:
    """Counts the encoder and decoder tokens of a batch that are not padding."""
    return sum(
        int(np.count_nonzero(batch[f"{side}_segment_ids"])) for side in ("encoder", "decoder")
    )


def caching(folder: Path, settings: Settings, num_workers: int) -> Measure:
    """Documents to tokens on disk: spoken form, benchmark sentences dropped, tokenized."""

    def step() -> int:
        with TemporaryDirectory(dir=folder) as cache_dir:
            return write_cache(Path(cache_dir), folder, settings, "pages", num_workers=num_workers)

    return lambda: timed(step, settings.seconds)


def reading(folder: Path, settings: Settings, kind: str, packing: str) -> Measure:
    """Tokens on disk to batches."""
    reader = open_reader(folder / "cache", kind, settings.reader(packing))
    return repeated(map(filled, reader), settings.seconds)


def from_text(folder: Path, settings: Settings, kind: str) -> Measure:
    """Documents to batches: caching them, then reading as many text tokens as there are."""

    def step() -> int:
        with TemporaryDirectory(dir=folder) as cache_dir:
            left = write_cache(Path(cache_dir), folder, settings, kind)
            reader = open_reader(cache_dir, kind, settings.reader("isolated"))
            tokens = 0
            for batch in reader:
                tokens += filled(batch)
                read = reader.statistics()["tasks"].values()
                if sum(task["text_tokens"] for task in read) >= left:
                    return tokens
        raise AssertionError("readers are endless")

    return lambda: timed(step, settings.seconds)


def repeated(amounts: Iterator[int], seconds: float) -> Measure:
    """Measures an endless iterator; its first element, with all that is done once, is not timed."""
    next(amounts)
    return lambda: timed(lambda: next(amounts), seconds, warm_up=seconds / 4)


OURS: dict[str, Callable[[Path, Settings], Measure]] = {
    "caching, 1 process": partial(caching, num_workers=1),
    "caching, 2 processes": partial(caching, num_workers=2),
    **{
        f"reading {kind}, {packing}": partial(reading, kind=kind, packing=packing)
        for kind in READ_KINDS
        for packing in MODES
    },
    "from text": partial(from_text, kind="short"),
}
"""Name of a stage to what prepares it."""


def serve_stage(prepare: Callable[[Path, Settings], Measure], folder: Path) -> None:
    """Runs one stage as a worker, with the settings of the folder."""
    serve(lambda: prepare(folder, Settings.read(folder)))


if __name__ == "__main__":
    serve_stage(OURS[sys.argv[1]], Path(sys.argv[2]))
