"""Every mistake in a configuration is answered with its place and the nearest known names.

The gin files here bind functions of `difflib` and `textwrap`: plain, and always there.
"""

from __future__ import annotations

import difflib
import textwrap
from pathlib import Path

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax import gin_config
from alexatm_jax.gin_config import ConfigError

HEADER = "from __gin__ import dynamic_registration\nimport difflib\n"


@pytest.fixture
def write(tmp_path):
    """Writes gin files into the one folder that `load_from` searches."""

    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return name

    return write_file


@pytest.fixture
def load(tmp_path):
    return lambda *files, bindings=(): gin_config.load(files, bindings, [str(tmp_path)])


def close_matches(**arguments):
    return gin.get_configurable(difflib.get_close_matches)(**arguments)


def test_files_bind_functions_and_later_ones_win(write, load):
    write("a.gin", HEADER + "CUTOFF = 0.9\ndifflib.get_close_matches.cutoff = %CUTOFF\n")
    write("run.gin", HEADER + "include 'a.gin'\ndifflib.get_close_matches:\n  n = 1\n")
    load("run.gin")
    assert gin.get_bindings(difflib.get_close_matches) == {"cutoff": 0.9, "n": 1}
    assert close_matches(word="abcd", possibilities=["abce"]) == []
    load("run.gin", bindings=["CUTOFF=0.5", "get_close_matches.n = 2"])
    assert gin.get_bindings(difflib.get_close_matches) == {"cutoff": 0.5, "n": 2}
    assert gin_config.missing_required() == []
    gin_config.check_complete()


def test_a_file_in_a_folder_of_the_search_path_is_found_quietly(write, load, caplog):
    write("models/a.gin", "N = 1\n")
    load(write("run.gin", "include 'models/a.gin'\n"))
    assert gin.query_parameter("N/gin.macro.value") == 1
    assert not caplog.records


def test_loading_again_forgets_what_was_loaded_before(write, load, tmp_path):
    load(write("a.gin", HEADER + "difflib.get_close_matches.n = 1\n"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.gin").write_text("N = 3\n")
    gin_config.load(["a.gin"], ["N=4"], [str(other)])
    assert gin.query_parameter("N/gin.macro.value") == 4
    assert "get_close_matches" not in gin_config.operative_text()


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("difflib.get_close_matches.cutof = 1", ["no parameter cutof", "nearest: cutoff"]),
        ("difflib.get_close_match.n = 1", ["no get_close_match ", "get_close_matches"]),
        ("diflib.get_close_matches.n = 1", ["diflib", "not imported", "nearest: difflib"]),
        ("N = @difflib.get_close_match", ["no get_close_match ", "get_close_matches"]),
        ("difflib.get_close_match:\n  n = 1", ["no get_close_match ", "get_close_matches"]),
        ("difflib.HtmlDiff.make_file.charst = 1", ["no parameter charst", "charset"]),
        ("import difflibb", ["no module difflibb", "nearest: difflib"]),
        ("from alexatm_jax import bach", ["no module alexatm_jax.bach", "nearest: batch"]),
        ("from difflib import ndiff", ["difflib.ndiff is no module", "import difflib"]),
        ("include 'aa.gin'", ["no gin file aa.gin", "nearest: a.gin"]),
        ("include 'a.gin'", ["includes itself"]),
        ("NAME = runs", ["runs is no number", "quote it"]),
        ("NAME = [1, 2", ["not gin's syntax"]),
        ("NAME 3", ["not gin's syntax"]),
        ("difflib.__name__.n = 3", ["no function or class"]),
    ],
)
def test_mistakes_in_a_file_name_its_line(write, load, tmp_path, line, messages):
    write("a.gin", HEADER + "# a comment\n" + line + "\n")
    with pytest.raises(ConfigError) as raised:
        load("a.gin")
    # The tokenizer finds an unclosed bracket where the file ends.
    lines = (4, 5) if "[" in line else (4,)
    assert any(f"{tmp_path}/a.gin:{number}:" in str(raised.value) for number in lines)
    for message in messages:
        assert message in str(raised.value)


def test_the_place_is_the_included_file_that_is_wrong(write, load, tmp_path):
    write("bad.gin", HEADER + "difflib.get_close_matches.cutof = 1\n")
    write("run.gin", "N = 1\ninclude 'bad.gin'\n")
    with pytest.raises(ConfigError, match=f"{tmp_path}/bad.gin:3: .*nearest: cutoff"):
        load("run.gin")


def test_a_file_without_dynamic_registration_is_told_so(write, load, tmp_path):
    write("a.gin", "import difflib\ndifflib.get_close_matches.n = 1\n")
    with pytest.raises(ConfigError, match=f"{tmp_path}/a.gin:2: .*dynamic_registration"):
        load("a.gin")


def test_what_gin_alone_refuses_is_a_configuration_error_too(write, load):
    write("a.gin", "import difflib\n" + HEADER)
    with pytest.raises(ConfigError, match="(?s)gin refuses.*before any other modules"):
        load("a.gin")


def test_a_missing_file_lists_folders_and_near_names(write, load, tmp_path):
    write("experiments/demo.gin", "N = 1\n")
    with pytest.raises(ConfigError) as raised:
        load("experiments/dmeo.gin")
    for part in (str(Path.cwd()), str(tmp_path), "experiments/demo.gin", "_search_paths"):
        assert part in str(raised.value)


def test_a_module_that_lacks_a_package_says_which(write, load, tmp_path, monkeypatch):
    (tmp_path / "needs_absent.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    write("a.gin", HEADER + "import needs_absent\n")
    with pytest.raises(ConfigError, match="a.gin:3: needs_absent needs absent_package,"):
        load("a.gin")


@pytest.mark.parametrize(
    ("binding", "messages"),
    [
        ("MODLE_DIR=/tmp", ["--gin.MODLE_DIR: no gin file", "nearest: MODEL_DIR"]),
        ("get_close_matches.cutof=1", ["no parameter cutof", "nearest: cutoff"]),
        ("get_close_match.n=1", ["no gin file mentions", "nearest: get_close_matches"]),
        ("shorten.n=1", ["no gin file mentions", "there are: get_close_matches"]),
        ("MODEL_DIR=@get_close_match", ["no gin file mentions", "get_close_matches"]),
        ("MODEL_DIR=", ["--gin.NAME=VALUE"]),
        ("MODEL_DIR", ["--gin.NAME=VALUE"]),
        ("MODEL_DIR=true", ["write True"]),
        ("MODEL_DIR=two words", ["--gin.MODEL_DIR", "quote it"]),
        ("MODEL_DIR=1e-4x", ["--gin.MODEL_DIR", "not gin's syntax"]),
    ],
)
def test_mistakes_in_bindings_name_the_flag(write, load, binding, messages):
    text = "difflib.get_close_matches.n = 1\ndifflib.get_close_matches.word = %MODEL_DIR\n"
    write("a.gin", HEADER + text)
    with pytest.raises(ConfigError) as raised:
        load("a.gin", bindings=[binding])
    for message in messages:
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ('"/tmp/x"', "/tmp/x"),
        ("/tmp/x", "/tmp/x"),
        ("runs/demo", "runs/demo"),
        ("100:105", "100:105"),
        ("./a-b", "./a-b"),
        ("gs://bucket/x_1", "gs://bucket/x_1"),
        ("cldr", "cldr"),
        ("3", 3),
        ("1e-4", 1e-4),
        ("True", True),
        ("None", None),
        ("{'inputs': 8}", {"inputs": 8}),
        ("('a', 2)", ("a", 2)),
    ],
)
def test_values_are_gin_or_else_plain_words(write, load, typed, value):
    load(write("a.gin", "X = 0\n"), bindings=[f"X={typed}"])
    assert gin.query_parameter("X/gin.macro.value") == value


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_any_python_literal_passes_through_a_binding(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    (folder / "literal.gin").write_text("X = 0\n")
    gin_config.load(["literal.gin"], [f"X={value!r}"], [str(folder)])
    assert gin.query_parameter("X/gin.macro.value") == value


def test_everything_missing_is_listed_at_once(write, load, tmp_path):
    write(
        "a.gin",
        HEADER
        + textwrap.dedent("""\
        MODEL_DIR = %gin.REQUIRED
        SET_LATER = %gin.REQUIRED
        difflib.get_close_matches:
          n = %UNDEFINED
          word = %gin.REQUIRED
          cutoff = %OVERRIDDEN
        train/difflib.ndiff.a = [%MODEL_DIR, {'x': %NESTED}]
        difflib.ndiff.b = @train/difflib.ndiff()
        """),
    )
    load("a.gin", bindings=["SET_LATER=1", "get_close_matches.cutoff=0.5"])
    found = [line.split(")")[0] for line in gin_config.missing_required()]
    assert found == [
        f"MODEL_DIR ({tmp_path}/a.gin:3",
        f"UNDEFINED ({tmp_path}/a.gin:6",
        f"difflib.get_close_matches.word ({tmp_path}/a.gin:7",
        f"NESTED ({tmp_path}/a.gin:9",
    ]
    with pytest.raises(ConfigError, match="lacks 4 value") as raised:
        gin_config.check_complete()
    for name in ("MODEL_DIR", "UNDEFINED", "difflib.get_close_matches.word", "NESTED"):
        assert f"set it with --gin.{name}=VALUE" in str(raised.value)


def test_a_function_asks_only_for_what_it_reads(write, load):
    text = HEADER + textwrap.dedent("""\
        import textwrap
        N = %gin.REQUIRED
        ASKED = [%N]
        UNREAD = %gin.REQUIRED
        difflib.get_close_matches:
          n = {'deep': (%ASKED, 2)}
          word = @textwrap.indent()
        textwrap.indent.prefix = %PREFIX
        difflib.ndiff.a = %UNREAD
        """)
    load(write("a.gin", text))

    def missing(function) -> list[str]:
        return [line.split(" ")[0] for line in gin_config.missing_required(function)]

    assert missing(difflib.get_close_matches) == ["N", "PREFIX"]
    assert missing(textwrap.indent) == ["PREFIX"]
    assert missing(difflib.ndiff) == ["UNREAD"]
    assert missing(difflib.unified_diff) == []
    assert missing(None) == ["N", "UNREAD", "PREFIX"]
    with pytest.raises(ConfigError, match="lacks 1 value"):
        gin_config.check_complete(difflib.ndiff)


def test_the_advice_given_for_missing_values_works(write, load):
    block = "difflib.get_close_matches:\n  n = %N\n  word = %gin.REQUIRED\n"
    load(write("a.gin", HEADER + block))
    advice = [line.split("--gin.")[1] for line in gin_config.missing_required()]
    load("a.gin", bindings=[binding.replace("VALUE", "1") for binding in advice])
    assert gin_config.missing_required() == []
    assert gin.get_bindings(difflib.get_close_matches) == {"n": 1, "word": 1}


def test_the_saved_text_restores_the_same_configuration(write, load):
    text = "import textwrap\nN = 2\ndifflib.get_close_matches.n = %N\n"
    text += "train/textwrap.indent.prefix = 'x'\ndifflib.ndiff.linejunk = @train/textwrap.indent\n"
    write("a.gin", HEADER + text)
    load("a.gin", bindings=["N=7"])
    text = gin_config.operative_text()
    load(write("saved.gin", text))
    assert gin_config.operative_text() == text
    assert gin.get_bindings(difflib.get_close_matches) == {"n": 7}


def test_what_is_bound_in_a_scope_is_made_there(write, load):
    text = "difflib.ndiff.a = [@one/difflib.get_close_matches()]\n"
    text += "one/difflib.get_close_matches.n = %N\n"
    load(write("a.gin", HEADER + text), bindings=["one/get_close_matches.cutoff=0.5"])
    assert [line.split(" ")[0] for line in gin_config.missing_required(difflib.ndiff)] == ["N"]
    with pytest.raises(ConfigError, match=r"get_close_matches.n is bound .* @onne/.*nearest: one"):
        load("a.gin", bindings=["onne/get_close_matches.n=5"])


def test_shipped_files_are_found_last(tmp_path):
    here, extra, shipped = gin_config.search_paths([str(tmp_path)])
    assert (here, extra) == (str(Path.cwd()), str(tmp_path))
    assert (Path(shipped) / "models").is_dir()
