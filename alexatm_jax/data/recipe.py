"""Turns counts of sentences and tokens into each task's share of the training text.

The paper's rule (recipe §2, arXiv:2208.01448, Sec. 3; §3, Sec. 4):

* a language gets the share q = p^alpha / sum of p^alpha, alpha = 0.5, where p is its part of all
  sentences;
* Wikipedia is up-sampled x10 against mC4; each text exists spoken and written, mixed 7 : 3
  (Wikipedia) and 0.7 : 0.3 (mC4), which is the weight 10 or 1 times 0.7 or 0.3;
* 80 % of the training is denoising, 20 % CLM.

Where the paper leaves it open, we chose: sentences are counted once each, over all sources, before
any weight; shares are of text tokens, those of the documents before any noise; within a language
the sources and forms share in proportion to weight x form x tokens. So the languages' shares of
the text tokens are the q exactly, whatever the sources hold. `mixture_report` prints the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alexatm_jax.data.cache import MixtureSpec
from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.mixture_report import Counts, sentences_by_language
from alexatm_jax.data.objectives import Objective
from alexatm_jax.text.documents import DocumentSource
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.preparation import FORMS
from alexatm_jax.text.spoken import LANGUAGES


@dataclass(frozen=True)
class TextSource:
    """Documents of one origin, in some of the 12 languages.

    Attributes:
      name: what its corpora are called after.
      documents: by language.
      weight: how often its text counts against that of the other sources.

    Raises:
      ValueError: if the name cannot be part of a task's, a language is unknown, there is none, or
        the weight is not positive.
    """

    name: str
    documents: Mapping[str, DocumentSource]
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_source(self.name, self.documents, self.weight)

    @property
    def languages(self) -> list[str]:
        return list(self.documents)


@dataclass(frozen=True)
class LocalText:
    """Files of one origin, by language: a text source that gin can bind.

    Attributes:
      name, weight: as in TextSource.
      files: language to a glob or path, or several.
      document, text_field, max_document_bytes: as in `text.local_files.LocalFiles`.

    Raises:
      ValueError: as TextSource. Whether the files exist is seen when they are to be read.
    """

    name: str
    files: Mapping[str, str | Sequence[str]]
    weight: float = 1.0
    document: str = "line"
    text_field: str = "text"
    max_document_bytes: int = 10 << 20

    def __post_init__(self) -> None:
        _check_source(self.name, self.files, self.weight)
        _ = self.documents  # which checks its own arguments, and reads nothing

    @property
    def languages(self) -> list[str]:
        return list(self.files)

    @property
    def documents(self) -> dict[str, DocumentSource]:
        """The files' documents by language."""
        return {
            language: LocalFiles(
                patterns,
                document=self.document,
                text_field=self.text_field,
                max_document_bytes=self.max_document_bytes,
            )
            for language, patterns in self.files.items()
        }


@dataclass(frozen=True)
class TfdsText:
    """Prepared data sets of TensorFlow Datasets, by language: a text source that gin can bind.

    Attributes:
      name, weight: as in TextSource.
      datasets: language to the data set's name and split, such as
        ("wikipedia/20230601.de:1.0.0", "train").
      text_field: feature that holds the text.
      data_dir: where TFDS keeps its data; None is TFDS's own choice.

    Raises:
      ValueError: as TextSource, or if a data set is no such pair.
    """

    name: str
    datasets: Mapping[str, tuple[str, str]]
    weight: float = 1.0
    text_field: str = "text"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        _check_source(self.name, self.datasets, self.weight)
        for language, pair in self.datasets.items():
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(
                    f"source {self.name!r} reads {pair!r} as {language!r}; give the data set's "
                    "name and split, such as ('wikipedia/20230601.de:1.0.0', 'train')."
                )

    @property
    def languages(self) -> list[str]:
        return list(self.datasets)

    @property
    def documents(self) -> dict[str, DocumentSource]:
        """The data sets' documents by language; needs TensorFlow Datasets."""
        # Here, because this module is read on machines that have no TensorFlow.
        from alexatm_jax.data.seqio_documents import TfdsDocuments

        return {
            language: TfdsDocuments(name, split, self.text_field, self.data_dir)
            for language, (name, split) in self.datasets.items()
        }


AnyText = TextSource | LocalText | TfdsText


@dataclass(frozen=True)
class Corpus:
    """One source in one language and form, and how often its text counts within the language."""

    source: str
    language: str
    form: str
    weight: float

    @property
    def name(self) -> str:
        return f"{self.source}_{self.language}_{self.form}"

    @property
    def labels(self) -> dict[str, str]:
        return {"source": self.source, "language": self.language, "form": self.form}


@dataclass(frozen=True)
class TextRecipe:
    """A pre-training mixture over anybody's text; the defaults are the paper's.

    A source x language x form is a corpus, "{source}_{language}_{form}"; a corpus x objective is
    a task, "{corpus}_denoising" or "{corpus}_clm".

    Attributes:
      sources: where the text comes from.
      vocabulary: path of the SentencePiece model; $NAME stands for an environment variable.
      alpha: exponent of the language sampling, from 0 (all languages alike) to 1 (as found).
      forms: "spoken" and "written" to how often a text counts in that form.
      denoising_share: part of the text that is denoised; the rest is continued.
      benchmarks: evaluation sets to keep out of the text, name to file patterns.
      benchmark_tasks: registered few-shot tasks to keep out of it, too.
      benchmark_ngrams: in place of both, a file that `python -m alexatm_jax.text.decontamination`
        made of them.
      denoising, clm: the two objectives.

    Raises:
      ValueError: if there is no source, two have one name, a form is unknown, a number is out of
        range, or both ways of naming the benchmarks are taken.
    """

    sources: Sequence[AnyText]
    vocabulary: str
    alpha: float = 0.5
    forms: Mapping[str, float] = field(default_factory=lambda: {"spoken": 0.7, "written": 0.3})
    denoising_share: float = 0.8
    benchmarks: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    benchmark_tasks: Sequence[str] = ()
    benchmark_ngrams: str | None = None
    denoising: Denoising = Denoising()
    clm: CausalLM = CausalLM()

    def __post_init__(self) -> None:
        if isinstance(self.sources, AnyText):
            raise ValueError(
                f"the recipe's sources are the one source {self.sources.name!r}; put it in a list."
            )
        _check_mapping(self.forms, "the recipe's forms", "'spoken' and 'written' to numbers")
        _check_mapping(self.benchmarks, "the recipe's benchmarks", "names to file patterns")
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"the recipe's sources are called {names}; give one or more, each its own name."
            )
        if not self.forms or set(self.forms) - set(FORMS):
            raise ValueError(
                f"the recipe's forms are {sorted(self.forms)}; choose among {list(FORMS)}."
            )
        for form, weight in self.forms.items():
            _check_positive(weight, f"form {form!r}")
        for part, value in (("alpha", self.alpha), ("denoising_share", self.denoising_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"the recipe's {part} is {value}; give a number from 0 to 1.")
        _check_benchmarks([*self.benchmarks, *self.benchmark_tasks], self.benchmark_ngrams)

    @property
    def objectives(self) -> dict[str, tuple[Objective, float]]:
        """Suffix of the task's name to the objective and its part of each corpus' text."""
        both: dict[str, tuple[Objective, float]] = {
            "denoising": (self.denoising, self.denoising_share),
            "clm": (self.clm, 1 - self.denoising_share),
        }
        return {suffix: pair for suffix, pair in both.items() if pair[1] > 0}

    @property
    def corpora(self) -> list[Corpus]:
        """Lists the corpora, in the order of sources, languages and forms."""
        return [
            Corpus(source.name, language, form, source.weight * multiplicity)
            for source in self.sources
            for language in source.languages
            for form, multiplicity in self.forms.items()
        ]

    @property
    def task_names(self) -> list[str]:
        return [f"{corpus.name}_{suffix}" for corpus in self.corpora for suffix in self.objectives]

    def shares(self, counts: Mapping[str, Counts]) -> dict[str, float]:
        """Gives each task's share of the mixture's text tokens; they sum to 1.

        Args:
          counts: of every corpus, by its name.

        Raises:
          ValueError: if a corpus is missing or holds no sentence or no token.
        """
        corpora = self.corpora
        for corpus in corpora:
            _check_counts(corpus.name, counts.get(corpus.name))
        languages = language_shares(
            sentences_by_language({c.name: c.labels for c in corpora}, counts), self.alpha
        )
        tokens = {corpus: corpus.weight * counts[corpus.name].num_tokens for corpus in corpora}
        in_language = dict.fromkeys(languages, 0.0)
        for corpus, weighted in tokens.items():
            in_language[corpus.language] += weighted
        return {
            f"{corpus.name}_{suffix}": languages[corpus.language]
            * (weighted / in_language[corpus.language])
            * part
            for corpus, weighted in tokens.items()
            for suffix, (_, part) in self.objectives.items()
        }

    def check_cached(self, spec: MixtureSpec, counts: Mapping[str, Counts]) -> None:
        """Raises ValueError if a cached mixture is not what this recipe makes of its corpora.

        It compares tasks, objectives and shares; whether the corpora are of the same text, only
        writing them again can tell.
        """
        found = {task.name: (task.objective, task.rate) for task in spec.tasks}
        differing = sorted(set(found) ^ set(self.task_names))
        if not differing:
            shares = self.shares(counts)
            suffixes = {name: name.rpartition("_")[2] for name in found}
            differing = [
                name
                for name, (objective, rate) in found.items()
                if objective != self.objectives[suffixes[name]][0].spec()
                or not math.isclose(rate, shares[name], rel_tol=1e-6)
            ]
        if differing:
            raise ValueError(
                f"the cached mixture {spec.mixture!r} was made by another recipe: {len(differing)} "
                f"tasks differ, such as {differing[0]!r}; write it again with --run_mode=cache, "
                "which keeps the corpora that stay the same, or give the mixture another name."
            )


def language_shares(sentences: Mapping[str, int], alpha: float = 0.5) -> dict[str, float]:
    """Gives q_i = p_i^alpha / sum_j p_j^alpha, with p_i = n_i / sum_j n_j.

    Source: recipe §2, arXiv:2208.01448, Sec. 3.

    Args:
      sentences: n_i by language, each at least 1.
      alpha: 1 keeps the proportions, 0 makes all languages alike.
    """
    total = sum(sentences.values())
    raised = {language: (count / total) ** alpha for language, count in sentences.items()}
    return {language: value / sum(raised.values()) for language, value in raised.items()}


def _check_source(name: str, texts: Mapping[str, object], weight: float) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(
            f"a source is called {name!r}; its name becomes part of file and task names: use "
            "letters, digits and _, a letter first."
        )
    _check_mapping(texts, f"source {name!r}", "languages to text, such as {'de': 'data/de/*.txt'}")
    if unknown := sorted(set(texts) - set(LANGUAGES)):
        raise ValueError(
            f"source {name!r} has text in {unknown}; the known languages are "
            f"{', '.join(LANGUAGES)}; use these codes, and leave others out."
        )
    if not texts:
        raise ValueError(f"source {name!r} has text in no language; give some, or leave it out.")
    _check_positive(weight, f"source {name!r}")


def _check_mapping(value: object, owner: str, needed: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{owner} was given {value!r}; give a dict from {needed}.")


def _check_positive(weight: float, owner: str) -> None:
    if not (isinstance(weight, int | float) and weight > 0 and math.isfinite(weight)):
        raise ValueError(
            f"{owner} has the weight {weight!r}; give a positive number, or leave it out."
        )


def _check_benchmarks(names: Sequence[str], ngrams: str | None) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the recipe names the benchmarks {twice} twice; leave one of each out.")
    if ngrams and names:
        raise ValueError(
            f"the recipe names the n-gram file {ngrams} and also the benchmarks {[*names]}; the "
            "file holds all that there is to keep out: leave one of the two out."
        )


def _check_counts(corpus: str, counts: Counts | None) -> None:
    if counts is None:
        raise ValueError(
            f"corpus {corpus!r} has not been counted; cache it, or leave its source or language "
            "out of the recipe."
        )
    if min(counts.num_sentences, counts.num_tokens) < 1:
        raise ValueError(
            f"corpus {corpus!r} has {counts.num_sentences} sentences and {counts.num_tokens} "
            "tokens; both are needed to find its share; check its files and cache it again."
        )
