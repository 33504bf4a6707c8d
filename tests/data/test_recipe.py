"""A recipe's shares are the paper's formula, and its mistakes are found at once."""

from __future__ import annotations

import dataclasses

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax import gin_config
from alexatm_jax.data import recipe
from alexatm_jax.data.recipe import LocalText, TextRecipe, TextSource, TfdsText
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.spoken import LANGUAGES

SENTENCES = {"ar": 4, "de": 49, "en": 900, "mr": 1}


@dataclasses.dataclass(frozen=True)
class Counted:
    """What a cached corpus says of itself, as far as it matters here."""

    num_sentences: int
    num_tokens: int


def paper(languages=LANGUAGES, **options) -> TextRecipe:
    """Both sources of the paper, with files that nobody reads."""
    files = dict.fromkeys(languages, "*.txt")
    return TextRecipe(
        [LocalText("wikipedia", files, weight=10), LocalText("mc4", files)], "v.model", **options
    )


def counted(made: TextRecipe, sentences=SENTENCES) -> dict[str, Counted]:
    """Nine tenths of the sentences are mC4's; tokens per sentence vary; spoken ones are fewer."""
    counts = {}
    for corpus in made.corpora:
        number = sentences[corpus.language] * (900 if corpus.source == "mc4" else 100)
        length = 20 + len(corpus.language + corpus.source) - (corpus.form == "spoken")
        counts[corpus.name] = Counted(number, number * length)
    return counts


def test_languages_are_sampled_by_the_papers_formula():
    shares = recipe.language_shares({"a": 1, "b": 4, "c": 25}, alpha=0.5)
    assert shares == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8})
    assert recipe.language_shares({"a": 1, "b": 3}, 1) == pytest.approx({"a": 0.25, "b": 0.75})
    assert recipe.language_shares({"a": 1, "b": 3}, 0) == pytest.approx({"a": 0.5, "b": 0.5})


@given(
    st.dictionaries(st.sampled_from(LANGUAGES), st.integers(1, 10**9), min_size=1),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_languages_and_objectives_get_their_shares_exactly(sentences, alpha, denoising):
    made = paper(tuple(sentences), alpha=alpha, denoising_share=denoising)
    counts = counted(made, sentences)
    shares = made.shares(counts)
    wanted = recipe.language_shares(sentences, alpha)
    assert sum(shares.values()) == pytest.approx(1)
    for language, share in wanted.items():
        found = [value for name, value in shares.items() if f"_{language}_" in name]
        assert sum(found) == pytest.approx(share)
    found = [value for name, value in shares.items() if name.endswith("_denoising")]
    assert sum(found) == pytest.approx(denoising)


def test_within_a_language_weight_form_and_tokens_decide():
    made = paper(("de",))
    counts = {
        "wikipedia_de_spoken": Counted(5, 100),
        "wikipedia_de_written": Counted(5, 200),
        "mc4_de_spoken": Counted(5, 1000),
        "mc4_de_written": Counted(5, 2000),
    }
    shares = made.shares(counts)
    corpora = {
        name: shares[f"{name}_denoising"] + shares[f"{name}_clm"]
        for name in counts  # 7 x 100, 3 x 200, 0.7 x 1000, 0.3 x 2000: recipe §2
    }
    total = 700 + 600 + 700 + 600
    assert corpora == pytest.approx(
        {
            "wikipedia_de_spoken": 700 / total,
            "wikipedia_de_written": 600 / total,
            "mc4_de_spoken": 700 / total,
            "mc4_de_written": 600 / total,
        }
    )


def test_the_paper_has_96_tasks_and_its_counts_give_its_9_percent():
    made = paper()
    assert len(made.task_names) == len(set(made.task_names)) == 96
    assert made.task_names[0] == "wikipedia_ar_spoken_denoising"
    # 119 B and 1.2 T are 7 + 3 times Wikipedia and 0.7 + 0.3 times mC4 (recipe §2).
    one = paper(("en",))
    counts = {
        corpus.name: Counted(1, 11_900 if corpus.source == "wikipedia" else 1_200_000)
        for corpus in one.corpora
    }
    wikipedia = [v for name, v in one.shares(counts).items() if name.startswith("wikipedia")]
    assert sum(wikipedia) == pytest.approx(0.09, abs=0.001)


def test_other_recipes_leave_out_forms_and_objectives():
    made = paper(("de",), forms={"written": 1.0}, denoising_share=1.0)
    assert made.task_names == ["wikipedia_de_written_denoising", "mc4_de_written_denoising"]
    only_clm = paper(("de",), forms={"spoken": 2}, denoising_share=0)
    assert only_clm.task_names == ["wikipedia_de_spoken_clm", "mc4_de_spoken_clm"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LocalText("web", {"xx": "a"}), "'web' has text in .'xx'.; the known .* ar, de"),
        (lambda: LocalText("web", {}), "in no language"),
        (lambda: LocalText("web", "a.txt"), "'web' was given 'a.txt'; give a dict from languages"),
        (lambda: LocalText("web", {"de": "a"}, weight="10"), "the weight '10'; give a positive"),
        (lambda: LocalText("my-web", {"de": "a"}), "'my-web'.*letters, digits and _"),
        (lambda: LocalText("web", {"de": "a"}, document="page"), "'page'; it must be 'line' or"),
        (lambda: LocalText("web", {"de": "a"}, weight=0), "'web' has the weight 0; .*positive"),
        (lambda: TextSource("web", {"de": None}, weight=float("inf")), "weight inf"),
        (lambda: TfdsText("web", {"de": "c4/multilingual"}), "'c4/multilingual' as 'de'; .*split"),
        (lambda: TextRecipe([], "v"), r"called \[\]; give one"),
        (lambda: TextRecipe([LocalText("a", {"de": "x"})] * 2, "v"), r"\['a', 'a'\].*own name"),
        (lambda: paper(forms={"sung": 1}), r"\['sung'\]; choose among \['written', 'spoken'\]"),
        (lambda: TextRecipe(LocalText("a", {"de": "x"}), "v"), "one source 'a'; put it in a list"),
        (lambda: paper(forms={}), "choose among"),
        (lambda: paper(forms=["spoken"]), "forms was given .*give a dict"),
        (lambda: paper(benchmarks="x.tsv"), "benchmarks was given 'x.tsv'; give a dict"),
        (lambda: paper(forms={"spoken": -1}), "form 'spoken' has the weight -1"),
        (lambda: paper(alpha=1.5), "alpha is 1.5; .*0 to 1"),
        (lambda: paper(denoising_share=float("nan")), "denoising_share is nan"),
        (lambda: paper(benchmarks={"xnli": "x"}, benchmark_ngrams="n"), r"n and .*\['xnli'\]"),
        (lambda: paper(benchmarks={"t": "x"}, benchmark_tasks=["t"]), r"\['t'\] twice"),
        (lambda: paper().shares({}), "'wikipedia_ar_spoken' has not been counted; cache it"),
        (
            lambda: paper(("de",)).shares(dict.fromkeys(_names(), Counted(0, 9))),
            "0 sentences and 9 tokens; .*cache it again",
        ),
    ],
)
def test_mistakes_are_named_with_their_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _names() -> list[str]:
    return [corpus.name for corpus in paper(("de",)).corpora]


def test_gin_binds_a_whole_recipe(tmp_path):
    (tmp_path / "mine.gin").write_text(
        """
from __gin__ import dynamic_registration
from alexatm_jax.data import recipe

recipe.TextRecipe:
  sources = [@wiki/recipe.LocalText(), @web/recipe.LocalText(), @recipe.TfdsText()]
  vocabulary = 'v.model'
  forms = {'written': 1.0}
wiki/recipe.LocalText:
  name = 'wiki'
  files = {'de': 'data/de/*.txt', 'fr': ['a.txt', 'b.jsonl']}
  weight = 10
web/recipe.LocalText:
  name = 'web'
  files = {'de': 'web/*.jsonl.gz'}
  text_field = 'body'
recipe.TfdsText:
  name = 'mc4'
  datasets = {'de': ('c4/multilingual', 'de')}
""",
        encoding="utf-8",
    )
    gin_config.load(["mine.gin"], ["recipe.TextRecipe.alpha=0.3"], [str(tmp_path)])
    made = gin.get_configurable(TextRecipe)()
    assert made.alpha == 0.3
    assert [source.name for source in made.sources] == ["wiki", "web", "mc4"]
    assert [corpus.name for corpus in made.corpora] == [
        "wiki_de_written",
        "wiki_fr_written",
        "web_de_written",
        "mc4_de_written",
    ]
    assert made.sources[1].documents == {"de": LocalFiles("web/*.jsonl.gz", text_field="body")}
