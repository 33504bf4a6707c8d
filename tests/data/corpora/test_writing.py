"""A corpus comes out the same whatever the number of processes and however often it is killed."""

import gzip
import importlib
import json
import logging
import os
import pickle
import resource
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from alexatm_jax.data import cache
from alexatm_jax.data.cache import CacheError
from alexatm_jax.data.corpora import writing as corpus_writing
from alexatm_jax.data.corpora.writing import CorpusJob, write_corpora, write_corpus
from alexatm_jax.data.vocabulary import Vocabulary, train
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.preparation import Preparation
from alexatm_jax.text.problems import TextError

LINES = [f"Der {n}. Satz, GANZ kurz. Und noch einer!" for n in range(300)]

SOURCES = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path

from alexatm_jax.text.local_files import LocalFiles

class Modules:
    description = "what a process has imported, and its number"

    def units(self):
        return [{"number": number} for number in range(4)]

    def documents(self, unit, problems):
        yield " ".join({name.partition(".")[0] for name in sys.modules})
        yield f"process {os.getpid()}"

@dataclass(frozen=True)
class Slow(LocalFiles):
    started: str = "started"

    def documents(self, unit, problems):
        with open(self.started, "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.15)
        yield from super().documents(unit, problems)

@dataclass(frozen=True)
class Deadly(LocalFiles):
    def documents(self, unit, problems):
        if "2.txt" in str(unit):
            os.abort()
        return super().documents(unit, problems)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "v.model"
    return train(LINES, path, size=300)


@pytest.fixture
def job(tmp_path, trained):
    """300 documents in 3 files and several units."""
    (tmp_path / "v.model").write_bytes(trained.path.read_bytes())
    for part in range(3):
        path = tmp_path / "text" / f"{part}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(LINES[part::3]), encoding="utf-8")
    return CorpusJob(
        "web",
        "train",
        LocalFiles(f"{tmp_path}/text/*", unit_bytes=2000),
        Preparation("de", "spoken"),
        Vocabulary(tmp_path / "v.model"),
    )


def content(folder):
    """Gives every file below a folder, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def texts(folder, job):
    source = cache.read_corpus(folder, job.corpus).source
    return [job.vocabulary.decode(source[index]) for index in range(len(source))]


def test_documents_are_prepared_counted_and_kept_in_order(tmp_path, job):
    provenance = write_corpus(tmp_path / "cache", job)
    lines = [line for part in range(3) for line in LINES[part::3]]
    assert texts(tmp_path / "cache", job) == [job.preparation(line).text for line in lines]
    assert provenance == cache.read_corpus(tmp_path / "cache", "web").provenance
    assert len(provenance.shards) == len(job.documents.units()) > 5
    assert (provenance.num_documents, provenance.num_sentences) == (300, 600)
    assert provenance.num_tokens == sum(shard["tokens"] for shard in provenance.shards)
    assert provenance.source == f"{job.documents.description}; {job.preparation.description}"
    names = {name.partition("-")[0] for name in content(tmp_path / "cache")}
    assert names == {f"corpora/web/{name}" for name in ("documents", "problems.json")} | {
        "corpora/web/provenance.json"
    }


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path, job):
    for workers in (1, 2, 4):
        write_corpus(tmp_path / f"{workers}", job, num_workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "4")


def test_several_corpora_share_the_processes(tmp_path, job):
    written = replace(job, corpus="written", preparation=Preparation("de"))
    one = replace(job, corpus="one", documents=LocalFiles(f"{tmp_path}/text/0.txt"))
    found = write_corpora(tmp_path / "cache", [job, written, one], num_workers=2)
    assert {name: held.num_documents for name, held in found.items()} == {
        "web": 300,
        "written": 300,
        "one": 100,
    }
    assert texts(tmp_path / "cache", written)[0] == LINES[0]


class InMemory:
    """Documents that other processes cannot read."""

    description = "a list"

    def __init__(self, units):
        self._read = [lambda unit=unit: iter(unit) for unit in units]

    def units(self):
        return [{"number": number} for number in range(len(self._read))]

    def documents(self, unit, problems):
        return self._read[unit["number"]]()


def test_what_cannot_be_pickled_is_read_here(tmp_path, job):
    job = replace(job, documents=InMemory([["a b"], [], ["c", "..."]]), max_documents=None)
    provenance = write_corpus(tmp_path / "cache", job, num_workers=4)
    assert [shard["documents"] for shard in provenance.shards] == [1, 0, 1]
    assert provenance.num_empty == 1  # nothing is left of "..." when it is spoken
    assert texts(tmp_path / "cache", job) == ["a b", "c"]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A module of sources that other processes can import."""
    (tmp_path / "sources_of_this_test.py").write_text(SOURCES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sources_of_this_test", raising=False)
    return importlib.import_module("sources_of_this_test")


def test_processes_import_no_tensorflow(tmp_path, job, sources):
    job = replace(job, documents=sources.Modules(), preparation=None)
    write_corpus(tmp_path / "cache", job, num_workers=2)
    found = texts(tmp_path / "cache", job)
    imported = set(" ".join(found[::2]).split())
    assert "numpy" in imported and not imported & {"tensorflow", "jax", "seqio", "pytest"}
    assert len(set(found[1::2])) == 2 and f"process {os.getpid()}" not in found


def test_a_process_that_dies_is_told_of_and_the_rest_is_kept(tmp_path, job, sources, caplog):
    deadly = replace(job, documents=sources.Deadly(job.documents.patterns, unit_bytes=2000))
    with pytest.raises(RuntimeError, match=r"unit \d of \d of corpus 'web': .*2.txt.* died"):
        write_corpus(tmp_path / "cache", deadly, num_workers=2)
    with pytest.raises(CacheError, match="no corpus 'web'"):
        cache.read_corpus(tmp_path / "cache", "web")
    caplog.set_level(logging.INFO)
    write_corpus(tmp_path / "cache", job, num_workers=2)
    assert "shards are there already; going on" in caplog.text
    write_corpus(tmp_path / "undisturbed", job)
    assert content(tmp_path / "cache") == content(tmp_path / "undisturbed")


def test_a_source_that_raises_in_another_process_is_told_of(tmp_path, job):
    (tmp_path / "text" / "3.txt").write_bytes(b"fine\n\xff\n")
    stopping = replace(job, on_problem="stop")
    for workers in (1, 2):
        with pytest.raises(TextError, match="3.txt, line 2: not UTF-8") as caught:
            write_corpus(tmp_path / "cache", stopping, num_workers=workers)
        assert "This came up in unit" in str(caught.value.__notes__)


STEPS = """
import os, shutil, signal, sys
from pathlib import Path
from alexatm_jax.data import cache
from alexatm_jax.data.corpora.writing import CorpusJob, write_corpus
from alexatm_jax.data.vocabulary import Vocabulary
from alexatm_jax.text.local_files import LocalFiles

folder = Path(sys.argv[1])
source = LocalFiles(f"{folder}/text/*.txt", unit_bytes=5000)
job = CorpusJob("web", "train", source, None, Vocabulary(folder / "v.model"))
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"}

def kill_at(step):
    seen = 0
    def hook(event, args):
        nonlocal seen
        if event in CHANGES or event == "open" and str(folder / "killed") in str(args[0]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

write_corpus(folder / "whole", job)
wanted = content(folder / "whole/corpora/web")
for step in range(1, 1000, int(sys.argv[2])):
    shutil.rmtree(folder / "killed", ignore_errors=True)
    if (child := os.fork()) == 0:
        kill_at(step)
        write_corpus(folder / "killed", job)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        cache.read_corpus(folder / "killed", "web").source.verify()
        assert content(folder / "killed/corpora/web") == wanted
    except cache.CacheError as error:
        assert "is no cache" in str(error) or "no corpus" in str(error), error
        assert killed
    write_corpus(folder / "killed", job)
    assert content(folder / "killed") == content(folder / "whole"), step
    if not killed:
        break
print(step)
"""


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_step_it_goes_on_to_the_same_bytes(tmp_path, job, stride):
    with python(STEPS, tmp_path, stride) as process:
        printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert int(printed.splitlines()[-1]) > 40


WRITE = """
import pickle, sys
from alexatm_jax.data.corpora.writing import write_corpus
with open(sys.argv[2], "rb") as file:
    write_corpus(sys.argv[1], pickle.load(file), num_workers=2)
"""


def runs(pid):
    """Tells whether a process is there and not only unburied."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def waited_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at processes in /proc")
def test_killed_with_its_processes_at_work_it_goes_on_to_the_same_bytes(tmp_path, job, sources):
    started, folder = tmp_path / "started", tmp_path / "killed"
    slow = sources.Slow(job.documents.patterns, unit_bytes=2000, started=str(started))
    job = replace(job, documents=slow)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    for finished in (1, 4):
        with python(WRITE, folder, tmp_path / "job", cwd=tmp_path) as process:
            partial = (folder / "corpora").glob
            assert waited_for(lambda p=partial, n=finished: len([*p(".web*/*.json")]) >= n)
            with pytest.raises(CacheError, match="another process is writing"):
                write_corpus(folder, job)
            process.kill()
        pids = set(started.read_text().split())
        assert waited_for(lambda pids=pids: not any(map(runs, pids))), "processes live on"
        with pytest.raises(CacheError, match="no corpus 'web'"):
            cache.read_corpus(folder, "web")
    write_corpus(folder, job)
    write_corpus(tmp_path / "undisturbed", job)
    assert content(folder) == content(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["tokens gone", "ends cut", "json empty"])
def test_a_shard_that_lost_a_file_is_written_again(tmp_path, job, sources, damage):
    source = sources.Deadly(job.documents.patterns, unit_bytes=2000)
    with pytest.raises(RuntimeError, match="died"):
        write_corpus(tmp_path / "cache", replace(job, documents=source), num_workers=2)
    kind, what = damage.split()
    finished, *_ = (tmp_path / "cache" / "corpora").glob(".web.*/documents-*.json")
    path = finished.with_suffix(f".{kind}")
    if what == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:8] if what == "cut" else b"")
    write_corpus(tmp_path / "cache", job)
    write_corpus(tmp_path / "undisturbed", job)
    assert content(tmp_path / "cache") == content(tmp_path / "undisturbed")


def test_other_text_or_settings_start_anew(tmp_path, job, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "text" / "3.txt").write_bytes(b"\xff\n")
    with pytest.raises(TextError):
        write_corpus(tmp_path / "cache", replace(job, on_problem="stop"))
    assert [*(tmp_path / "cache" / "corpora").glob(".web.*.partial/*.json")]
    write_corpus(tmp_path / "cache", job)
    assert "begun from other text or settings; starting anew" in caplog.text
    assert "going on" not in caplog.text
    assert os.listdir(tmp_path / "cache" / "corpora") == ["web"]


def test_a_corpus_is_kept_and_never_overwritten(tmp_path, job, caplog):
    caplog.set_level(logging.INFO)
    first = write_corpus(tmp_path / "cache", job)
    before = content(tmp_path / "cache")
    assert write_corpus(tmp_path / "cache", job) == first
    assert "is in" in caplog.text and "already" in caplog.text
    for other in (replace(job, preparation=None), replace(job, max_documents=9)):
        with pytest.raises(CacheError, match="spoken de.* not split 'train' of"):
            write_corpus(tmp_path / "cache", other)
    assert content(tmp_path / "cache") == before


@pytest.mark.parametrize("limit", [1, 40, 130, 1000])
def test_a_limit_takes_the_first_documents(tmp_path, job, limit):
    write_corpus(tmp_path / "all", job)
    limited = replace(job, max_documents=limit)
    provenance = write_corpus(tmp_path / "cache", limited, num_workers=4)
    assert texts(tmp_path / "cache", job) == texts(tmp_path / "all", job)[:limit]
    assert provenance.source.startswith(f"the first {limit} documents of 3 local file(s)")
    with pytest.raises(ValueError, match="max_documents is 0"):
        replace(job, max_documents=0)
    with pytest.raises(ValueError, match="num_workers is 0"):
        write_corpus(tmp_path / "other", job, num_workers=0)


def test_problems_are_counted_and_the_first_is_named(tmp_path, job, caplog):
    (tmp_path / "text" / "3.txt").write_bytes(b"\xff\n  \nGut.\n\xff\n")
    (tmp_path / "text" / "4.txt.gz").write_bytes(gzip.compress(b"Zwei.\n" * 9)[:-9])
    for workers in (1, 2):
        provenance = write_corpus(tmp_path / f"{workers}", job, num_workers=workers)
        assert provenance.problems == {"empty": 1, "invalid_utf8": 2, "truncated": 1}
    assert content(tmp_path / "1") == content(tmp_path / "2")
    report = json.loads((tmp_path / "1" / "corpora" / "web" / "problems.json").read_text())
    assert report["counts"] == provenance.problems and len(report["examples"]) == 4
    assert "corpus web: 2 x invalid_utf8, the first: " in caplog.text
    assert "3.txt, line 1: not UTF-8" in caplog.text


def test_a_source_without_text_leaves_nothing(tmp_path, job):
    job = replace(job, documents=InMemory([["..."], []]))
    with pytest.raises(CacheError, match="has 0 documents with 0 tokens .1 more were empty"):
        write_corpus(tmp_path / "cache", job)
    assert not [*(tmp_path / "cache" / "corpora").iterdir()]


def test_a_full_disk_keeps_what_is_finished(tmp_path, job):
    class Flood(InMemory):
        def documents(self, unit, problems):
            return iter(["wort " * 50_000] if unit["number"] else ["eins"])

    job = replace(job, documents=Flood([[], []]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(CacheError, match="00001-of-00002.tokens could not be .*make room"):
            write_corpus(tmp_path / "cache", job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (finished,) = (tmp_path / "cache" / "corpora").glob(".web.*/*.json")
    assert finished.name == "documents-00000-of-00002.json"
    assert write_corpus(tmp_path / "cache", job).num_documents == 2


def test_the_source_is_described_as_it_was_when_the_run_began(tmp_path, job):
    class Changing(InMemory):
        description = "before"

        def documents(self, unit, problems):
            self.description = "after"
            return super().documents(unit, problems)

    job = replace(job, documents=Changing([["eins"]]), preparation=None)
    assert write_corpus(tmp_path / "cache", job).source == "before"


def test_progress_is_told_with_speed_and_time_left(tmp_path, job, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(corpus_writing, "_SECONDS_BETWEEN_LINES", 0)
    write_corpus(tmp_path / "cache", job)
    lines = [record.getMessage() for record in caplog.records]
    assert "caching: 0 of" in lines[0] and "tokens/s" in lines[0]
    assert any("min left" in line for line in lines)
