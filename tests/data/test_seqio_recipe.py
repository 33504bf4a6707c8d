"""A recipe becomes ordinary SeqIO tasks; its mixture gets its rates from what was counted."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import seqio

from alexatm_jax.data import cache, mixture_report, recipe
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.recipe import LocalText, TextRecipe
from alexatm_jax.data.seqio_cache import build_cache, mixture_spec, num_documents
from alexatm_jax.data.seqio_few_shot import add_few_shot_task
from alexatm_jax.data.seqio_recipe import RecipeMixture, load_vocabulary, register
from alexatm_jax.data.seqio_tasks import SeqioVocabulary
from alexatm_jax.data.vocabulary import train
from alexatm_jax.evaluation.prompts import FewShotPrompt
from alexatm_jax.text.decontamination import BenchmarkNgrams
from alexatm_jax.text.preparation import Preparation

SECRET = "Der alte Mann und das weite Meer sind an diesem Morgen wieder ganz allein."
TEXTS = {
    "de": [f"Es war {n} Uhr. Der Zug fährt, sagte sie." for n in range(40)] + [SECRET],
    "te": [f"అది {n} గంటలు. " + "రైలు వెళ్తుంది, అని ఆమె చెప్పింది. " * 6 for n in range(10)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Text in two languages, one with long documents, and a vocabulary of it."""
    folder = tmp_path_factory.mktemp("recipe")
    for language, lines in TEXTS.items():
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "benchmark.txt").write_text(f"{SECRET}\n", encoding="utf-8")
    train([*TEXTS["de"], *TEXTS["te"]], folder / "v.model", size=400)
    return folder


@pytest.fixture
def registries():
    yield
    seqio.MixtureRegistry.reset()
    seqio.TaskRegistry.reset()


def recipe_of(folder: Path, **options) -> TextRecipe:
    files = {language: f"{folder}/{language}.txt" for language in TEXTS}
    options = {"vocabulary": f"{folder}/v.model"} | options
    return TextRecipe([LocalText("mine", files)], **options)


def task(name: str) -> seqio.Task:
    return seqio.TaskRegistry.get(name)


def test_tasks_know_their_corpus_documents_and_form(folder, registries, tmp_path):
    made = recipe_of(folder)
    register(made, "mixed", tmp_path)
    mixture = seqio.MixtureRegistry.get("mixed")
    assert isinstance(mixture, RecipeMixture) and mixture.recipe == made
    assert {found.name for found in mixture.tasks} == set(made.task_names)
    marker = task("mine_de_spoken_clm").preprocessors[1]
    assert (marker.corpus, marker.split) == ("mine_de_spoken", "train")
    assert marker.preparation == Preparation("de", "spoken")
    assert marker.documents == made.sources[0].documents["de"]
    assert marker.labels == {"source": "mine", "language": "de", "form": "spoken"}
    assert pickle.loads(pickle.dumps(marker.documents)) == marker.documents
    assert set(num_documents("mixed")) == {corpus.name for corpus in made.corpora}


def test_the_cache_gets_the_recipes_shares(folder, registries, tmp_path):
    made = recipe_of(folder)
    register(made, "mixed", tmp_path)
    spec = build_cache(tmp_path, "mixed")
    counts = {name: cache.read_corpus(tmp_path, name).provenance for name in num_documents("mixed")}
    assert counts["mine_de_written"].num_sentences == 2 * 40 + 1
    assert {t.name: t.rate for t in spec.tasks} == pytest.approx(made.shares(counts))
    content = mixture_report.as_json(spec, counts)
    shares = recipe.language_shares({"de": 81, "te": 70})
    assert {k: row["q"] for k, row in content["languages"].items()} == pytest.approx(shares)
    assert content["objectives"] == pytest.approx({"denoising": 0.8, "clm": 0.2})
    words = cache.read_vocabulary(tmp_path)
    spoken = cache.read_corpus(tmp_path, "mine_de_spoken").source
    assert words.decode(spoken[7]) == "es war 7 uhr der zug fährt sagte sie"


def test_a_cached_mixture_of_another_recipe_is_refused(folder, registries, tmp_path):
    made = recipe_of(folder)
    register(made, "mixed", tmp_path)
    build_cache(tmp_path, "mixed")
    spec = cache.read_mixture(tmp_path, "mixed")
    counts = {name: cache.read_corpus(tmp_path, name).provenance for name in num_documents("mixed")}
    made.check_cached(spec, counts)
    for change, differing, name in (
        ({"alpha": 0.7}, 8, "mine_de_spoken_clm"),
        ({"denoising": Denoising(drop_rate=0.3)}, 4, "mine_de_spoken_denoising"),
        ({"forms": {"spoken": 1}}, 4, "mine_de_written_clm"),
        ({"denoising_share": 1}, 4, "mine_de_spoken_clm"),
    ):
        with pytest.raises(ValueError, match=f"'mixed' was made by .*: {differing} tasks.*{name}"):
            recipe_of(folder, **change).check_cached(spec, counts)


def test_seqio_reads_the_mixture_in_its_proportions(folder, registries, tmp_path, monkeypatch):
    made = recipe_of(folder, forms={"written": 1}, denoising_share=1)
    register(made, "mixed", tmp_path)
    monkeypatch.delenv("ALEXATM_COUNTS", raising=False)
    with pytest.raises(
        ValueError, match="'mine_de_written_denoising'.*--run_mode=cache.*ALEXATM_COU"
    ):
        seqio.MixtureRegistry.get("mixed").get_rate(task("mine_de_written_denoising"))
    build_cache(tmp_path, "mixed")
    monkeypatch.setenv("ALEXATM_COUNTS", str(tmp_path))
    dataset = seqio.get_dataset(
        mixture_or_task_name="mixed",
        task_feature_lengths={"inputs": 400, "targets": 400},
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        num_epochs=None,
        seed=3,
    )
    tokens = {"de": 0, "te": 0}
    words = cache.read_vocabulary(tmp_path)
    for example in dataset.take(400).as_numpy_iterator():
        targets = example["decoder_target_tokens"]
        text = words.decode(targets)
        language = "de" if text.isascii() or "fährt" in text else "te"
        tokens[language] += np.count_nonzero(targets) - 1
    share = recipe.language_shares({"de": 81, "te": 70})["te"]
    assert tokens["te"] / sum(tokens.values()) == pytest.approx(share, abs=0.08)


def test_benchmarks_are_kept_out_of_every_corpus(folder, registries, tmp_path):
    made = recipe_of(folder, benchmarks={"secret": f"{folder}/benchmark.txt"})
    register(made, "mixed", tmp_path)
    (ngrams,) = tmp_path.glob("benchmarks-*.ngrams")
    assert BenchmarkNgrams(ngrams).benchmarks == ("secret",)
    written = ngrams.stat().st_mtime_ns
    register(made, "mixed", tmp_path)
    assert ngrams.stat().st_mtime_ns == written
    build_cache(tmp_path, "mixed")
    for form in recipe.FORMS:
        provenance = cache.read_corpus(tmp_path, f"mine_de_{form}").provenance
        assert provenance.dropped == {"secret": 1} and provenance.num_sentences == 80
        assert provenance.num_documents == 40
    assert cache.read_corpus(tmp_path, "mine_te_spoken").provenance.num_dropped == 0
    tokens = list(task("mine_de_written_denoising").get_dataset(shuffle=False).as_numpy_iterator())
    assert len(tokens) == 40


def test_few_shot_tasks_are_benchmarks_too(folder, registries, tmp_path):
    def items():
        return [{"id": "1", "language": "de", "shot_group": "g", "src": SECRET, "target": "ja"}]

    prompt = FewShotPrompt(shot="{src}: {tgt};", query="{src}:")
    vocabulary = SeqioVocabulary(lambda: load_vocabulary(f"{folder}/v.model"))
    add_few_shot_task("asked", prompt, items, lambda: [], vocabulary)
    register(recipe_of(folder, benchmark_tasks=["asked"]), "mixed", tmp_path)
    marker = task("mine_de_written_clm").preprocessors[1]
    assert marker.preparation(SECRET).dropped == {"asked": 1}


def test_a_second_recipe_takes_the_place_of_the_first(folder, registries, tmp_path):
    register(recipe_of(folder), "mixed", tmp_path)
    register(recipe_of(folder, denoising_share=1, forms={"spoken": 1}), "mixed", tmp_path)
    names = [found.name for found in seqio.MixtureRegistry.get("mixed").tasks]
    assert names == ["mine_de_spoken_denoising", "mine_te_spoken_denoising"]
    with pytest.raises(ValueError, match="'mixed' follow from the counts.*--run_mode=cache"):
        mixture_spec("mixed")


def test_what_cannot_be_registered_is_said_first(folder, registries, tmp_path, monkeypatch):
    seqio.MixtureRegistry.reset()
    register(recipe_of(folder), "mixed", tmp_path)
    seqio.MixtureRegistry.add("other", ["mine_de_spoken_clm"], default_rate=1)
    for name in ("other", "mine_de_spoken_clm"):
        with pytest.raises(ValueError, match=f"'{name}' is registered already, and by no recipe"):
            register(recipe_of(folder), name, tmp_path)
    with pytest.raises(ValueError, match="vocabulary none.model is not there; .*vocabulary train"):
        register(recipe_of(folder, vocabulary="none.model"), "mixed", tmp_path)
    with pytest.raises(ValueError, match="n-gram file n is not there; .*decontamination"):
        register(recipe_of(folder, benchmark_ngrams="n"), "mixed", tmp_path)
    monkeypatch.delenv("MY_VOCABULARY", raising=False)
    with pytest.raises(ValueError, match="MY_VOCABULARY is not set; set it to"):
        register(recipe_of(folder, vocabulary="$MY_VOCABULARY"), "mixed", tmp_path)
    with pytest.raises(ValueError, match="missing.txt"):
        missing = {"b": f"{folder}/missing.txt"}
        register(recipe_of(folder, benchmarks=missing), "mixed", tmp_path)
