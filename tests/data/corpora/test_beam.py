"""Apache Beam writes what processes of one machine write, byte for byte."""

import sys
from dataclasses import replace

import pytest

from alexatm_jax.data.cache import CacheError
from alexatm_jax.data.corpora import beam as beam_corpus
from alexatm_jax.data.corpora import writing as corpus_writing
from alexatm_jax.data.corpora.writing import CorpusJob
from alexatm_jax.data.vocabulary import train
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.preparation import Preparation

LINES = [f"The {n}th sentence, QUITE short. And one more!" for n in range(200)]
IN_MEMORY = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]
IN_PROCESSES = ["--runner=DirectRunner", "--direct_running_mode=multi_processing"]
IN_PROCESSES += ["--direct_num_workers=2"]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Two corpora of 200 documents in some five units each."""
    folder = tmp_path_factory.mktemp("text")
    vocabulary = train(LINES, folder / "v.model", size=300)
    (folder / "text.txt").write_text("\n".join(LINES))
    source = LocalFiles(str(folder / "text.txt"), unit_bytes=2000)
    spoken = CorpusJob("spoken", "train", source, Preparation("en", "spoken"), vocabulary)
    return [spoken, replace(spoken, corpus="written", preparation=None)]


def content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("options", [IN_MEMORY, pytest.param(IN_PROCESSES, marks=pytest.mark.slow)])
def test_beam_writes_the_same_bytes(tmp_path, jobs, options):
    pytest.importorskip("apache_beam")
    found = beam_corpus.write_corpora(tmp_path / "beam", jobs, options=options)
    assert found == corpus_writing.write_corpora(tmp_path / "here", jobs)
    assert content(tmp_path / "beam") == content(tmp_path / "here")


def test_a_unit_that_fails_is_named_and_the_rest_is_kept(tmp_path, jobs):
    pytest.importorskip("apache_beam")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("\n".join(LINES))
    (tmp_path / "text" / "b.txt").write_bytes(b"\xff\n")
    source = LocalFiles(f"{tmp_path}/text/*.txt", unit_bytes=2000)
    job = replace(jobs[0], documents=source, on_problem="stop")
    with pytest.raises(Exception, match="b.txt, line 1: not UTF-8"):
        beam_corpus.write_corpora(tmp_path / "cache", [job], options=IN_MEMORY)
    assert [*(tmp_path / "cache" / "corpora").glob(".spoken.*.partial")]


def test_workers_that_write_elsewhere_are_found_out(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(beam_corpus, "_run_pipeline", lambda tasks, options: None)
    with pytest.raises(CacheError, match="put the cache on a filesystem that this machine and all"):
        beam_corpus.write_corpora(tmp_path, jobs)


def test_limited_jobs_are_read_here(tmp_path, jobs, monkeypatch):
    monkeypatch.delattr(beam_corpus, "_run_pipeline")
    limited = [replace(job, max_documents=7) for job in jobs]
    found = beam_corpus.write_corpora(tmp_path, limited)
    assert [held.num_documents for held in found.values()] == [7, 7]


def test_without_beam_the_extra_is_named(tmp_path, jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"install alexatm_jax\[beam\]"):
        beam_corpus.write_corpora(tmp_path, jobs)
    assert not [*tmp_path.iterdir()]


def test_options_are_a_list(tmp_path, jobs):
    with pytest.raises(ValueError, match="give a list of them"):
        beam_corpus.write_corpora(tmp_path, jobs, options="--runner=FlinkRunner")
