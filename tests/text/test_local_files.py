"""Every document of local files comes once, in order; everything else is named by file and line."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.problems import Problems, TextError

MAX_BYTES = 40
MARK = b"\xef\xbb\xbf"
# What a line may hold and no format may take for its end, an escape or white space.
GOOD = st.lists(st.text('aéक😀\x00\x0b\x85\u2028\ufeff"\\', min_size=1, max_size=3), min_size=1)
TEXTS = st.one_of(
    GOOD.map(" ".join).map(str.encode),
    st.sampled_from(
        [b"", b" \t", "\u3000\u2028".encode(), b"a\rb", b"a" * 40, b"a" * 41, b"a" * 99]
    ),
    st.sampled_from([b"\xff", b"ab\xc3", b"\xed\xa0\x80", MARK + b"x"]),
)
ODD_JSON = {
    b'{"text": "a"': "bad_json",
    b'["a"]': "bad_json",
    b"7": "bad_json",
    b"[" * 39: "bad_json",
    b'{"body": "a"}': "no_text",
    b'{"text": null}': "no_text",
    b'{"text": ["a"]}': "no_text",
    b'{"text": "\\ud83d"}': "invalid_utf8",
    b'{"text": "\\uDC00\\uD83D a"}': "invalid_utf8",
    b'{"text": "\xff"}': "invalid_utf8",
    b'{"text": " \\n"}': "empty",
    b"": "empty",
    b'{"text": "%s"}' % (b"a" * 29): "too_long",
}
UNIT_BYTES = st.sampled_from([1, 2, 3, 5, 8, 13, 40, 1000])


def verdict(text: bytes) -> str | None:
    """Says what is wrong with a document."""
    if len(text) > MAX_BYTES:
        return "too_long"
    try:
        return None if text.decode().strip() else "empty"
    except UnicodeDecodeError:
        return "invalid_utf8"


def expected(items_of):
    """The documents and problems of files; an item is a document, or bytes and what they are."""
    documents, problems = [], []
    for path, items in items_of.items():
        for number, (text, wrong) in enumerate(items, 1):
            if wrong is None:
                documents.append(text)
            else:
                problems.append((wrong, str(path), number))
    return documents, sorted(problems)


def check(folder, items_of, read_all, **settings):
    source = LocalFiles(f"{folder}/*", max_document_bytes=MAX_BYTES, **settings)
    documents, problems = read_all(pickle.loads(pickle.dumps(source)))
    assert (documents, sorted(problems)) == expected(items_of)


def compress(content: bytes, ending: str, cut: int) -> bytes:
    """Compresses in two members, or frames."""
    if ending.endswith(".gz"):
        return gzip.compress(content[:cut]) + gzip.compress(content[cut:])
    if ending.endswith(".zst"):
        zstandard = pytest.importorskip("zstandard")
        return b"".join(zstandard.compress(part) for part in (content[:cut], content[cut:]))
    return content


@st.composite
def files_of(draw, lines):
    """Files of some lines, the last of which says which file it is: none is a copy."""
    files = []
    for number in range(draw(st.integers(1, 4))):
        items = [
            *draw(st.lists(lines, max_size=8)),
            (b'{"text": "%d"}' % number, str(number), None),
        ]
        ends = draw(st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=9, max_size=9))
        content = b"".join(line + end for (line, *_), end in zip(items, ends, strict=False))
        content = content[:-1] if draw(st.booleans()) else content
        with_mark = draw(st.booleans())
        files.append((items, with_mark, (MARK if with_mark else b"") + content))
    return files


def write_files(folder, files, ending):
    for number, (*_, content) in enumerate(files):
        compressed = compress(content, ending, len(content) // 3)
        (folder / f"{number}{ending}").write_bytes(compressed)


@given(files_of(TEXTS.map(lambda text: (text, text))), UNIT_BYTES)
@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".TXT.zst"])
def test_lines_of_text(tmp_path_factory, read_all, ending, files, unit_bytes):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, files, ending)
    items_of = {}
    for number, (items, with_mark, _) in enumerate(files):
        lines = [line for line, *_ in items]
        if not with_mark:
            lines[0] = lines[0].removeprefix(MARK)
        wrong = [verdict(line) for line in lines]
        items_of[folder / f"{number}{ending}"] = [
            (line.decode(errors="replace"), why) for line, why in zip(lines, wrong, strict=True)
        ]
    check(folder, items_of, read_all, unit_bytes=unit_bytes)


@st.composite
def json_lines(draw):
    if draw(st.booleans()):
        line = draw(st.sampled_from(sorted(ODD_JSON)))
        return line, "", ODD_JSON[line]
    text = draw(st.text('aé😀\n\x00"\\', min_size=1, max_size=3).filter(str.strip))
    line = json.dumps({"id": 7, "text": text}, ensure_ascii=draw(st.booleans())).encode()
    return line, text, "too_long" if len(line) > MAX_BYTES else None


@given(files_of(json_lines()), UNIT_BYTES)
@pytest.mark.parametrize("ending", [".jsonl", ".json-lines.gz", ".json.zst"])
def test_json_lines(tmp_path_factory, read_all, ending, files, unit_bytes):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, files, ending)
    items_of = {
        folder / f"{number}{ending}": [(text, wrong) for _, text, wrong in items]
        for number, (items, *_) in enumerate(files)
    }
    check(folder, items_of, read_all, unit_bytes=unit_bytes)


VALUES = st.lists(st.lists(st.none() | TEXTS, max_size=8), min_size=1, max_size=4)


def value_items(values):
    return [
        ("", "no_text") if value is None else (value.decode(errors="replace"), verdict(value))
        for value in values
    ]


@given(VALUES, st.integers(1, 4), UNIT_BYTES, st.sampled_from(["binary", "large_binary"]))
def test_columns_of_parquet(tmp_path_factory, read_all, files, rows, unit_bytes, kind):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder, items_of = tmp_path_factory.mktemp("files"), {}
    for number, values in enumerate(files):
        values = [*values, str(number).encode()]
        column = pa.array(values, getattr(pa, kind)())
        table = pa.table({"before": [{"a": 1, "text": "no"}] * len(values), "text": column})
        parquet.write_table(table, folder / f"{number}.parquet", row_group_size=rows)
        items_of[folder / f"{number}.parquet"] = value_items(values)
    check(folder, items_of, read_all, unit_bytes=unit_bytes)


@given(VALUES, UNIT_BYTES)
@pytest.mark.parametrize("ending", [".tfrecord", ".tfrecord-00000-of-00001", ".tfrecords.gz"])
def test_features_of_tfrecords(tmp_path_factory, read_all, tfrecord, ending, files, unit_bytes):
    folder, items_of = tmp_path_factory.mktemp("files"), {}
    for number, values in enumerate(files):
        values = [*values, str(number).encode()]
        examples = [tfrecord.example(value, name="t") for value in values]
        content = b"".join(map(tfrecord.record, examples))
        path = folder / f"{number}{ending}"
        path.write_bytes(compress(content, ending, len(content) // 3))
        items = zip(examples, value_items(values), strict=True)
        items_of[path] = [
            ("", "too_long") if len(example) > MAX_BYTES else item for example, item in items
        ]
    check(folder, items_of, read_all, unit_bytes=unit_bytes, text_field="t")


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.zst"])
def test_whole_files(tmp_path, read_all, ending):
    contents = {
        "a": MARK + b"two\r\n\r\nlines\r\n",
        "b": b" \n\n",
        "c": b"good\nb\xffd\n",
        "d": b"a" * MAX_BYTES,
        "e": b"a" * MAX_BYTES + b"\n",
        "f": b"",
        "g": b"a" * 500,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}{ending}").write_bytes(compress(content, ending, 5))
    source = LocalFiles(f"{tmp_path}/*{ending}", document="file", max_document_bytes=MAX_BYTES)
    documents, problems = read_all(source)
    assert documents == ["two\n\nlines", "a" * MAX_BYTES]
    assert problems == [
        ("empty", f"{tmp_path}/b{ending}", 1),
        ("invalid_utf8", f"{tmp_path}/c{ending}", 2),
        ("too_long", f"{tmp_path}/e{ending}", 1),
        ("empty", f"{tmp_path}/f{ending}", 1),
        ("too_long", f"{tmp_path}/g{ending}", 1),
    ]


def test_copies_are_read_once_and_named_by_the_first_unit(tmp_path, read_all):
    for name, content in {"a": "one\n", "b": "two\n", "c": "one\n", "d": "", "e": ""}.items():
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    source = LocalFiles(f"{tmp_path}/*.txt", unit_bytes=1)
    assert read_all(source) == (["one", "two"], [("duplicate_file", f"{tmp_path}/c.txt", None)])
    with pytest.raises(TextError, match=r"c\.txt: a copy.*the same bytes as .*a\.txt.*remove one"):
        list(source.documents(source.units()[0], Problems("stop")))


def test_small_files_share_units_and_big_ones_are_cut(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:04}.txt").write_text(f"{number:09}\n", encoding="utf-8")
    (tmp_path / "big.txt").write_text("0123456789\n" * 1000, encoding="utf-8")
    units = LocalFiles(f"{tmp_path}/*.txt", unit_bytes=2000).units()
    assert len(units) == 5 + 6
    assert [len(unit["parts"]) for unit in units[:5]] == [200] * 5


def test_stopping_and_skipping_are_told_apart(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": 2}\n', encoding="utf-8")
    source = LocalFiles(str(path), unit_bytes=1)
    units = source.units()
    problems = Problems()
    assert [text for unit in units for text in source.documents(unit, problems)] == ["one"]
    assert problems.counts == {"empty": 1, "no_text": 1}
    late = next(unit for unit in units if unit["parts"][0]["start"] == 17)
    with pytest.raises(TextError, match=r"a\.jsonl, line 3: no text.*'text' is a int.*text_field"):
        list(source.documents(late, Problems("stop")))


def test_files_that_go_away_are_reported_and_the_others_read(tmp_path, read_all):
    for name in ("a.txt", "b.txt", "c.txt.gz", "d.parquet"):
        (tmp_path / name).write_bytes(name.encode())
    source = LocalFiles([f"{tmp_path}/a.txt", f"{tmp_path}/*"], unit_bytes=1000)
    (unit,) = source.units()
    (tmp_path / "b.txt").unlink()
    problems = Problems()
    assert list(source.documents(unit, problems)) == ["a.txt"]
    assert problems.counts == {"unreadable": 3}
    assert {problem.line for problem in problems.examples} == {None}


def test_the_description_follows_what_the_documents_depend_on(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "here" / "b.txt").write_text("three\n", encoding="utf-8")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = LocalFiles(f"{tmp_path}/here/*.txt")
    same = LocalFiles([f"{tmp_path}/there/a.txt", f"{tmp_path}/there/b.txt"], unit_bytes=1)
    assert here.description == same.description
    others = [
        LocalFiles(f"{tmp_path}/here/a.txt"),
        LocalFiles([f"{tmp_path}/here/b.txt", f"{tmp_path}/here/*.txt"]),
        LocalFiles(f"{tmp_path}/here/*.txt", document="file"),
        LocalFiles(f"{tmp_path}/here/*.txt", text_field="body"),
        LocalFiles(f"{tmp_path}/here/*.txt", max_document_bytes=7),
    ]
    assert len({source.description for source in [here, *others]}) == 6
    (tmp_path / "here" / "b.txt").write_text("three!\n", encoding="utf-8")
    assert here.description != same.description


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patterns": ()}, "at least one path"),
        ({"patterns": ["a.txt", ""]}, "none empty"),
        ({"patterns": "a.txt", "document": "page"}, "'page'.*'line' or 'file'"),
        ({"patterns": "a.txt", "text_field": ""}, "text_field is empty"),
        ({"patterns": "a.txt", "max_document_bytes": 0}, "max_document_bytes is 0"),
        ({"patterns": "a.txt", "unit_bytes": 0}, "unit_bytes is 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalFiles(**settings)


def test_names_that_say_nothing_are_refused(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.md").touch()
    with pytest.raises(ValueError, match=r"b\.md.*known endings are .*\.parquet.*leave it out"):
        LocalFiles(f"{tmp_path}/*").units()
    with pytest.raises(ValueError, match=r"a\.jsonl.*many documents.*'line'"):
        LocalFiles(f"{tmp_path}/*.jsonl", document="file").units()


def test_utf16_is_not_taken_for_text_with_nul_characters(tmp_path, read_all):
    for ending in (".txt", ".jsonl.gz"):
        content = '{"text": "one"}\n{"text": "two"}\n'.encode("utf-16")
        (tmp_path / f"a{ending}").write_bytes(compress(content, ending, len(content)))
    documents, problems = read_all(LocalFiles(f"{tmp_path}/*", unit_bytes=5))
    assert documents == []
    assert [(kind, line) for kind, _, line in problems] == [("invalid_utf8", None)] * 2


def test_json_that_is_too_deep_or_too_big_is_bad(tmp_path, read_all):
    lines = ["[" * 100_000, "1" * 5000, '{"a": ' * 5000, '{"text": "b", "c": [[[]]]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    documents, problems = read_all(LocalFiles(f"{tmp_path}/a.jsonl"))
    assert documents == ["b"]
    assert [(kind, line) for kind, _, line in problems] == [("bad_json", n) for n in (1, 2, 3)]


READ_LONG_LINE = """
import sys
from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.problems import Problems

def peak_bytes():
    status = open("/proc/self/status", encoding="utf-8").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

source, problems = LocalFiles(sys.argv[1]), Problems()
import zstandard
before = peak_bytes()
print([text for unit in source.units() for text in source.documents(unit, problems)])
print([(problem.kind, problem.line) for problem in problems.examples])
print(peak_bytes() - before)
"""


@pytest.fixture(params=[".jsonl", ".txt.gz", ".txt.zst"])
def long_line(request, tmp_path):
    """A file with a line of 200 MB between two short ones, cheaply made."""
    path = tmp_path / f"long{request.param}"
    before, after = b'{"text": "a"}\n', b'\n{"text": "b"}\n'
    if request.param == ".jsonl":
        with path.open("wb") as file:
            file.write(before)
            file.seek(200_000_000)
            file.write(after)
        return path
    compress = gzip.compress
    if request.param == ".txt.zst":
        compress = pytest.importorskip("zstandard").compress
    path.write_bytes(compress(before + bytes(200_000_000) + after, 1))
    return path


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_a_line_of_200_mb_takes_little_memory(long_line):
    command = [sys.executable, "-W", "ignore", "-c", READ_LONG_LINE, str(long_line)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    documents, problems, peak = done.stdout.splitlines()
    texts = ["a", "b"] if long_line.suffix == ".jsonl" else ['{"text": "a"}', '{"text": "b"}']
    assert (documents, problems) == (str(texts), "[('too_long', 2)]")
    assert int(peak) < 64e6
