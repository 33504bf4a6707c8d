"""The report on a mixture says what its reader does, on a page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from alexatm_jax.data import cache, inspect
from alexatm_jax.data.corpora.writing import write_tokens
from alexatm_jax.data.inspection import page as inspection_page
from alexatm_jax.data.inspection.figures import document_lengths, inspect_mixture
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import ReaderConfig
from alexatm_jax.data.vocabulary import train

TEXTS = {
    "en": [f"No {n} <script>alert('&')</script> is to run, {n} times over." for n in range(60)],
    "ar": [f"الحق الحق أقول لكم: من يؤمن بي فله حياة أبدية {n}." for n in range(60)],
    "hi": [f"तब यीशु ने उससे कहा, मार्ग और सत्य और जीवन मैं ही हूँ {n}।" for n in range(60)],
}
VOID = {"br", "meta"}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    lines = [text for texts in TEXTS.values() for text in texts]
    return train(lines, tmp_path_factory.mktemp("vocabulary") / "v.model", size=420)


@pytest.fixture(scope="module")
def cache_dir(vocabulary, tmp_path_factory):
    """A cache of three corpora and the mixture "three" of six tasks, denoising 80 : CLM 20."""
    folder = tmp_path_factory.mktemp("cache")
    cache.install_vocabulary(folder, vocabulary)
    tasks = []
    for language, texts in TEXTS.items():
        documents = map(vocabulary.encode, texts)
        about = {"split": "train", "source": "a list", "vocabulary_sha256": vocabulary.sha256}
        write_tokens(folder, language, documents, **about)
        labels = {"language": language, "source": "lists", "form": "written"}
        for kind, rate in (("denoising", 0.8), ("clm", 0.2)):
            name = f"{language}_{kind}"
            tasks.append(cache.TaskSpec(name, language, rate / 3, {"kind": kind}, labels))
    cache.write_mixture(folder, cache.MixtureSpec("three", vocabulary.sha256, tuple(tasks)))
    return folder


def config(packing: str) -> ReaderConfig:
    return ReaderConfig(
        batch_size=4, encoder_length=128, decoder_length=128, seed=0, num_streams=2, packing=packing
    )


@pytest.fixture(scope="module", params=MODES)
def inspection(request, cache_dir):
    found = inspect_mixture(
        cache_dir, "three", config(request.param), num_batches=40, num_examples=3
    )
    return found


class Page(HTMLParser):
    """Collects a page's elements, and the text of each example with and without its marks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.examples: list[dict[str, str]] = []
        self.feed(page)
        assert not self.open, f"{self.open} are not closed"

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if ("class", "example") in attrs:
            self.examples.append({"whole": "", "unmarked": ""})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "p" in self.open and "details" in self.open and "bdi" not in self.open:
            example = self.examples[-1]
            example["whole"] += data
            example["unmarked"] += "" if {"del", "ins"} & set(self.open) else data


def letters(text: str) -> str:
    """The text without white space, and without what spelling half a character may give."""
    return re.sub(r"[\s�]", "", text)


def test_the_examples_show_what_the_encoder_reads_and_the_decoder_writes(inspection, vocabulary):
    page = Page(inspection_page.page(inspection))
    segments = [one for task in inspection.spec.tasks for one in inspection.examples[task.name]]
    assert len(page.examples) == len(segments) == 18
    for example, segment in zip(page.examples, segments, strict=True):
        both = [segment.targets]
        if segment.objective == "clm":
            both = [segment.encoder_tokens, segment.targets]
        written = "".join(vocabulary.decode(documents(part, vocabulary)) for part in both)
        read = vocabulary.decode(documents(segment.encoder_tokens, vocabulary))
        assert letters(example["whole"]) == letters(written)
        assert letters(example["unmarked"]) == letters(read)


def documents(tokens: np.ndarray, vocabulary) -> np.ndarray:
    """The tokens up to `</s>` that `decode` spells."""
    return tokens[tokens != vocabulary.special.doc]


def test_the_page_stands_alone_and_runs_nothing(inspection):
    text = inspection_page.page(inspection)
    page = Page(text)
    linking = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "onload"}
    assert not linking & {name for name, _ in page.attributes}
    assert "@import" not in text and "http" not in text and "<script" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#padding", "#clm"}
    assert 'dir="auto"' in text and "&lt;script&gt;" in text


def test_figures_are_those_of_the_reader(inspection):
    statistics = inspection.statistics
    assert inspection.decoder_fill.shape == (40,)
    assert inspection.decoder_fill.mean() == pytest.approx(statistics["decoder_fill"])
    assert inspection.encoder_fill.mean() == pytest.approx(statistics["encoder_fill"])
    assert inspection.decoder_fill.mean() > 0.9 and inspection.tokens_per_second > 0
    assert abs(inspection.drift.largest.points) < 3
    text = inspection_page.text(inspection)
    for task in inspection.spec.tasks:
        assert f"{task.name} " in text
    assert f"{inspection.drift.text_tokens:,}  text tokens read" in text
    assert "text tokens by language  expected    read  points" in text


def test_rows_are_drawn_to_scale(inspection):
    """Each side's blocks are as long, together, as its tokens."""
    page = inspection_page.page(inspection)
    drawn = re.search(r'class="rows".*?</svg>', page)[0]
    widths = re.findall(r'width="([\d.]+)"[^>]*fill="hsl', drawn)
    segments = [segment for row in inspection.rows for segment in row]
    tokens = sum(len(segment.encoder_tokens) + len(segment.targets) for segment in segments)
    assert len(widths) == 2 * len(segments)
    assert sum(map(float, widths)) == pytest.approx(1000 * tokens / 128, rel=0.01)


class Long:
    """So many documents that reading all lengths would take minutes: 1, 2, ..., 5000, 1, ..."""

    def __len__(self) -> int:
        return 10**9

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) % 5000 + 1


def test_the_lengths_of_a_large_corpus_are_sampled():
    lengths = document_lengths(Long())
    assert lengths.num_documents == 10**9 and lengths.counts.sum() == 10**6
    assert lengths.mean == pytest.approx(2500, rel=0.02) and lengths.longest == 5000
    assert lengths.edges[0] == 1 and lengths.edges[-2] <= 5000 < lengths.edges[-1]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11, 1024])
def test_every_length_has_a_bin(length):
    class Equal(Long):
        def __len__(self) -> int:
            return 5

        def lengths(self, start: int, stop: int) -> np.ndarray:
            return np.full(stop - start, length)

    lengths = document_lengths(Equal())
    assert lengths.counts.sum() == lengths.counts[-1] == 5
    assert (np.diff(lengths.edges) > 0).all()


def test_the_command_writes_the_page_and_prints_the_figures(cache_dir, tmp_path, capsys):
    out = tmp_path / "report.html"
    arguments = [str(cache_dir), "three", "--out", str(out), "--batches=3", "--inputs=64"]
    assert inspect.main([*arguments, "--targets=64", "--packing=isolated"]) == 0
    assert "3 batches of 16 x (64 + 64) tokens, packing isolated" in capsys.readouterr().out
    assert Page(out.read_text(encoding="utf-8")).examples
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["{cache}", "tree"], "the nearest of its 1 are three"),
        (["{out}/none", "three"], "is no cache"),
        (["{cache}", "three", "--inputs=1"], "give longer rows"),
        (["{cache}", "three", "--num_streams=3"], "divide batch_size"),
        (["{cache}", "three", "--num_streams=64", "--batch_size=64"], "streams"),
        (["{cache}", "three", "--batches=0"], "at least 1 of each"),
        (["{cache}", "three", "--examples=0"], "at least 1 of each"),
        (["{cache}", "three", "--out={out}"], "needs the name of a file"),
        (["{cache}", "three", "--out={out}/none/r.html"], "in a folder that exists"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(cache_dir, tmp_path, capsys, changes, reason):
    arguments = [f"--out={tmp_path}/report.html"]
    arguments += [change.format(cache=cache_dir, out=tmp_path) for change in changes]
    assert inspect.main(arguments) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
