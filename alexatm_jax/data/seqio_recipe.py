"""Registers a recipe's tasks and its mixture with SeqIO."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import seqio

from alexatm_jax.data import cache, seqio_cache
from alexatm_jax.data.recipe import Counts, TextRecipe
from alexatm_jax.data.seqio_tasks import SeqioVocabulary, add_pretraining_tasks
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.benchmark_texts import texts_of_files, texts_of_task
from alexatm_jax.text.decontamination import write_benchmark_ngrams
from alexatm_jax.text.preparation import Preparation

logger = logging.getLogger(__name__)

COUNTS_VARIABLE = "ALEXATM_COUNTS"
"""Names a cache folder, for those who read a recipe's mixture with SeqIO and not from our cache."""


class RecipeMixture(seqio.Mixture):
    """A mixture whose rates follow from counts, by a recipe.

    Our cache asks for `shares` once the corpora are written. SeqIO draws examples, not tokens, so
    its rates are share / mean tokens of a document, from the counts of the cache that the
    environment variable ALEXATM_COUNTS names. That is as near as SeqIO comes: a document too long
    for a row becomes several of its examples. To mix recipes in our cache, make one recipe of all
    their sources: in a mixture of mixtures the rates would be SeqIO's.
    """

    def __init__(self, name: str, tasks: Any, *, recipe: TextRecipe, **options: Any) -> None:
        super().__init__(name, tasks, **options)
        self.recipe = recipe

    def shares(self, provenances: Mapping[str, Counts]) -> dict[str, float]:
        """Gives each task's share of the text tokens; see `TextRecipe.shares`."""
        return self.recipe.shares(provenances)


def register(recipe: TextRecipe, mixture_name: str, cache_dir: cache.PathLike) -> None:
    """Registers a recipe under a name, in the place of an earlier recipe of that name.

    With benchmarks, their n-grams are first written to "benchmarks-....ngrams" in the cache
    folder, unless those of the same texts are there already.

    Args:
      recipe: what to mix.
      mixture_name: of the mixture to register.
      cache_dir: folder of the cache, made if need be.

    Raises:
      ValueError: if the vocabulary or the n-gram file is not there, the name belongs to something
        that no recipe made, or a benchmark cannot be read.
    """
    _check_name(mixture_name)
    vocabulary = _expanded(recipe.vocabulary)
    _check_file(vocabulary, "vocabulary", "alexatm_jax.data.vocabulary train")
    if benchmarks := recipe.benchmark_ngrams:
        _check_file(benchmarks, "n-gram file", "alexatm_jax.text.decontamination")
    else:
        benchmarks = _benchmark_ngrams(recipe, Path(cache_dir).absolute())
    add_recipe_tasks(recipe, benchmarks)
    add_recipe_mixture(recipe, mixture_name)


def add_recipe_tasks(recipe: TextRecipe, benchmarks: str | None = None) -> None:
    """Registers the tasks of a recipe, in the place of others of the same names.

    It reads nothing: neither text nor vocabulary nor n-grams.

    Args:
      recipe: see `TextRecipe`.
      benchmarks: file of the n-grams to keep out of the text.
    """
    for name in recipe.task_names:
        seqio.TaskRegistry.remove(name)
    documents = {
        (source.name, language): found
        for source in recipe.sources
        for language, found in source.documents.items()
    }
    vocabulary = SeqioVocabulary(functools.partial(load_vocabulary, recipe.vocabulary))
    for corpus in recipe.corpora:
        add_pretraining_tasks(
            corpus.name,
            documents[corpus.source, corpus.language],
            vocabulary,
            {suffix: objective for suffix, (objective, _) in recipe.objectives.items()},
            preparation=Preparation(corpus.language, corpus.form, benchmarks),
            labels=corpus.labels,
        )


def add_recipe_mixture(recipe: TextRecipe, name: str) -> None:
    """Registers the mixture of a recipe whose tasks are registered, in the place of an earlier."""
    seqio.MixtureRegistry.remove(name)
    rates = [(task, functools.partial(_rate_in_examples, recipe)) for task in recipe.task_names]
    seqio.MixtureRegistry.add(name, rates, mixture_cls=RecipeMixture, recipe=recipe)


def load_vocabulary(path: str) -> Vocabulary:
    """Loads the vocabulary at a path that may name environment variables, such as $NAME.

    Raises:
      ValueError: if a variable is not set, or there is no such vocabulary.
    """
    return Vocabulary(_expanded(path))


def _expanded(path: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    if unset := re.findall(r"\$\{?(\w+)", expanded):
        raise ValueError(
            f"the vocabulary is {path!r}, and {', '.join(unset)} is not set; set it to the path of "
            "a vocabulary: python -m alexatm_jax.data.vocabulary train makes one."
        )
    return expanded


def _check_name(name: str) -> None:
    mixture = name in seqio.MixtureRegistry.names() and seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names() or (mixture and not isinstance(mixture, RecipeMixture)):
        raise ValueError(
            f"{name!r} is registered already, and by no recipe; give the recipe's mixture a name "
            "of its own, or leave the recipe out."
        )


def _check_file(path: str, what: str, maker: str) -> None:
    if not Path(path).is_file():
        raise ValueError(
            f"the recipe's {what} {path} is not there; correct the path, or make one with "
            f"python -m {maker}."
        )


def _rate_in_examples(recipe: TextRecipe, task: seqio.Task) -> float:
    """Gives SeqIO's rate of one task, from the counts of $ALEXATM_COUNTS."""
    folder = os.environ.get(COUNTS_VARIABLE)
    if not folder:
        raise ValueError(
            f"the rate of {task.name!r} follows from the counts of sentences and tokens, which are "
            f"in no cache yet as far as SeqIO can see: write the cache with --run_mode=cache, then "
            f"set {COUNTS_VARIABLE} to its folder."
        )
    corpora = tuple(corpus.name for corpus in recipe.corpora)
    counts = _counts(folder, corpora)
    corpus = counts[task.preprocessors[1].corpus]
    return recipe.shares(counts)[task.name] * corpus.num_documents / corpus.num_tokens


@functools.lru_cache(maxsize=8)  # SeqIO asks for the rate of each task apart
def _counts(folder: str, corpora: tuple[str, ...]) -> dict[str, cache.Provenance]:
    return cache.read_provenances(folder, corpora)


def _benchmark_ngrams(recipe: TextRecipe, folder: Path) -> str | None:
    """Writes the benchmarks' n-grams, unless those of the same texts are there; gives the path.

    The file is named after the texts, so that a name stands for one content for ever.
    """
    texts = _benchmark_texts(recipe)
    if not texts:
        return None
    made_of = {name: _sha256(read()) for name, read in texts.items()}
    path = folder / f"benchmarks-{_sha256([json.dumps(made_of)])[:12]}.ngrams"
    if not path.exists():
        logger.info("writing the n-grams of %s into %s", ", ".join(texts), path)
        write_benchmark_ngrams(path, {name: read() for name, read in texts.items()})
    return str(path)


def _benchmark_texts(recipe: TextRecipe) -> dict[str, Callable[[], Iterator[str]]]:
    """Names the benchmarks, and what reads the texts of each from the beginning."""

    def texts_of(task: str) -> Iterator[str]:
        return texts_of_task(seqio_cache.evaluation_payload(task))

    files: dict[str, Callable[[], Iterator[str]]] = {
        name: functools.partial(texts_of_files, patterns)
        for name, patterns in recipe.benchmarks.items()
    }
    return files | {task: functools.partial(texts_of, task) for task in recipe.benchmark_tasks}


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        # Surrogates, which JSON may hold, have no place in UTF-8; NUL parts the texts.
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
