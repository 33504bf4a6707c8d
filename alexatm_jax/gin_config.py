"""Reads gin files and command-line bindings, and says precisely what is wrong with them.

gin stops at its first problem and knows no near misses. So the files are first *surveyed*:
gin's own parser lists every statement with its place, each name is checked where it stands,
and what is bound is remembered. Then gin parses the same files and does the binding itself.
Gin files are expected to use dynamic registration: they import modules and bind plain
functions.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import gin
from gin import config_parser

import alexatm_jax


class ConfigError(ValueError):
    """A mistake in the configuration: what, in which file and line, and what to do."""


def search_paths(extra: Sequence[str]) -> list[str]:
    """Lists the folders of gin files: the current one, `extra`, then the shipped one."""
    package = Path(alexatm_jax.__file__).parent
    # A wheel holds it inside the package, a checkout beside it (setup.cfg, package_dir).
    shipped = package / "gin" if (package / "gin").is_dir() else package.parent / "gin"
    return [os.getcwd(), *extra, str(shipped)]


def load(gin_files: Sequence[str], bindings: Sequence[str], search: Sequence[str]) -> None:
    """Replaces gin's configuration by these files followed by these bindings.

    The configuration stays unlocked and may be incomplete: see `check_complete`.

    Args:
      gin_files: names relative to a folder of `search`, or absolute; later ones win.
      bindings: `NAME=VALUE`, as typed after `--gin.`. NAME is a macro, or a parameter such
        as `train.seed` of a function that a file mentions. VALUE is gin's syntax; what is
        not, but is a plain word, path or range such as `runs/demo`, is taken as that string,
        because shells eat quotes.
      search: folders, first match wins; the current folder always comes before them.

    Raises:
      ConfigError: naming the file and line, and the nearest names known there.
    """
    global _survey
    _survey = _Survey(tuple(search))
    for name in gin_files:
        _survey.read(name)
    lines = [_binding_line(binding) for binding in bindings]
    for line in lines:
        _survey.add_override(line)
    _survey.check_scopes()
    gin.clear_config()
    try:
        for name in gin_files:
            gin.parse_config_file(name)
        for line in lines:
            gin.parse_config(line)
    except (ValueError, SyntaxError) as error:
        raise ConfigError(f"gin refuses the configuration: {error}") from error


def missing_required(function: Any = None) -> list[str]:
    """Lists what `load` left without a value: undefined macros, and %gin.REQUIRED.

    Args:
      function: lists only what its arguments refer to, directly or not; all by default.

    Returns:
      One line each, `NAME (file:line)  set it with --gin.NAME=VALUE`, in the files' order.
    """
    read = _survey.bindings if function is None else _survey.reachable(function)
    places: dict[str, str] = {}
    for binding in read.values():
        for macro in binding.macros:
            if macro in _REQUIRED:
                places.setdefault(binding.name, binding.place)
            elif ("macro", macro) not in _survey.bindings:
                places.setdefault(macro, binding.place)
    return [f"{name} ({at})  set it with --gin.{name}=VALUE" for name, at in places.items()]


def check_complete(function: Any = None) -> None:
    """Raises one ConfigError that lists everything in `missing_required`."""
    if missing := missing_required(function):
        raise ConfigError(
            f"the configuration lacks {len(missing)} value(s):\n  " + "\n  ".join(missing)
        )


def operative_text() -> str:
    """Gives everything bound, as one gin file: what to save beside results.

    Everything, not only what functions called so far have read: `load` on this text
    restores the same bindings, whenever it was taken.
    """
    return gin.config_str()


_REQUIRED = ("gin.REQUIRED", "REQUIRED")


@dataclass(frozen=True)
class _Macro:
    name: str


@dataclass(frozen=True)
class _Reference:
    scope: str
    selector: str


class _Mentions(config_parser.ParserDelegate):
    """Leaves macros and references in values as they were written."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> _Reference:
        scope, _, selector = scoped_selector.rpartition("/")
        return _Reference(scope, selector)

    def macro(self, name: str) -> _Macro:
        return _Macro(name)


@dataclass(frozen=True)
class _Binding:
    """One bound macro or parameter, its place, and what its value refers to."""

    name: str
    place: str
    macros: tuple[str, ...]
    functions: tuple[Any, ...]


class _Survey:
    """What the files say, in the order in which gin binds it."""

    def __init__(self, search: tuple[str, ...]) -> None:
        self.search = search
        # Keys are ("macro", name) or (scope, function, parameter): binding again replaces.
        self.bindings: dict[tuple, _Binding] = {}
        self.functions: dict[str, Any] = {}
        self.used_macros: set[str] = set()
        self.used_scopes: set[str] = set()

    def read(self, name: str, asked_by: str = "", parents: tuple[str, ...] = ()) -> None:
        path = _find(name, self.search)
        if path is None:
            _raise_not_found(name, asked_by, self.search)
        if path in parents:
            raise ConfigError(f"{asked_by}: {name} includes itself; remove one include.")
        symbols = _Symbols(self.functions)
        with open(path, encoding="utf-8") as stream:
            for statement in _statements(stream, path):
                place = f"{path}:{statement.location.line_num}"
                if isinstance(statement, config_parser.IncludeStatement):
                    self.read(statement.filename, place, (*parents, path))
                elif isinstance(statement, config_parser.ImportStatement):
                    symbols.add_import(statement, place)
                else:
                    self._add(statement, symbols.resolve, place)

    def add_override(self, line: str) -> None:
        """Checks and remembers one binding from the command line."""
        name = line.partition(" = ")[0]
        place = f"--gin.{name}"
        for statement in _statements(line, place):
            if not statement.arg_name:
                self._check_macro(name, place)
            self._add(statement, self._mentioned, place)

    def _add(self, statement: Any, resolve: Callable[[str, str], Any], place: str) -> None:
        """Checks and remembers a binding; a block's first line only names a function."""
        if isinstance(statement, config_parser.BlockDeclaration):
            resolve(statement.selector, place)
            return
        leaves = list(_leaves(statement.value))
        references = [leaf for leaf in leaves if isinstance(leaf, _Reference)]
        functions = tuple(resolve(reference.selector, place) for reference in references)
        self.used_scopes.update(reference.scope for reference in references)
        name = "/".join(filter(None, (statement.scope, statement.selector)))
        key: tuple = ("macro", name)
        if argument := statement.arg_name:
            function = resolve(statement.selector, place)
            _check_parameter(function, statement.selector, argument, place)
            key = (statement.scope, function or statement.selector, argument)
            name = f"{name}.{argument}"
        macros = tuple(leaf.name for leaf in leaves if isinstance(leaf, _Macro))
        self.used_macros.update(macros)
        self.bindings[key] = _Binding(name, place, macros, functions)

    def check_scopes(self) -> None:
        """Raises ConfigError if something is bound in a scope that nothing is made in."""
        used = {scope for name in self.used_scopes for scope in name.split("/")} - {""}
        for key, binding in self.bindings.items():
            for scope in key[0].split("/") if len(key) == 3 and key[0] else ():
                if scope not in used:
                    raise ConfigError(
                        f"{binding.place}: {binding.name} is bound where nothing is made as "
                        f"@{scope}/...; {_nearest(scope, used)}."
                    )

    def reachable(self, function: Any) -> dict[tuple, _Binding]:
        """Gives the bindings that making the function's arguments reads, in their order."""
        wanted: set[Any] = {function}  # functions, and names of macros
        while True:
            found = {key: b for key, b in self.bindings.items() if key[1] in wanted}
            referred = {x for b in found.values() for x in (*b.macros, *b.functions)}
            if referred <= wanted:
                return found
            wanted |= referred

    def _mentioned(self, selector: str, place: str) -> Any:
        """Finds a function that some file mentions, by the end of its dotted name."""
        for name, function in self.functions.items():
            if f".{name}".endswith(f".{selector}"):
                return function
        size = selector.count(".") + 1
        known = {".".join(name.split(".")[-size:]) for name in self.functions}
        raise ConfigError(
            f"{place}: no gin file mentions a function {selector}; {_nearest(selector, known)}."
        )

    def _check_macro(self, name: str, place: str) -> None:
        defined = {key[1] for key in self.bindings if key[0] == "macro" and len(key) == 2}
        known = defined | self.used_macros.difference(_REQUIRED)
        if name not in known:
            raise ConfigError(
                f"{place}: no gin file defines or uses {name}; {_nearest(name, known)}."
            )


class _Symbols:
    """The names that one gin file has imported; it resolves selectors as gin would."""

    def __init__(self, functions: dict[str, Any]) -> None:
        self.imports: dict[str, tuple[str, Any]] = {}
        self.dynamic = False
        self.functions = functions

    def add_import(self, statement: config_parser.ImportStatement, place: str) -> None:
        if statement.module.startswith("__gin__."):
            self.dynamic = True
            return
        module = _import(statement.module, place)
        name = statement.bound_name()
        if not (statement.is_from or statement.alias):
            module = importlib.import_module(name)
        self.imports[name] = (statement.partial_path(), module)

    def resolve(self, selector: str, place: str) -> Any:
        """Finds the function or class named `selector`; None is one of gin's own."""
        root, *attributes = selector.split(".")
        if root == "gin":
            return None
        if not self.dynamic:
            raise ConfigError(
                f"{place}: {selector} is named in a file that does not begin with "
                "`from __gin__ import dynamic_registration`; add it and import the module."
            )
        if root not in self.imports:
            raise ConfigError(
                f"{place}: {root} in {selector} is not imported here; "
                f"{_nearest(root, self.imports)}. Import its module at the top of the file."
            )
        path, target = self.imports[root]
        for attribute in attributes:
            if not hasattr(target, attribute):
                _raise_no_attribute(selector, attribute, target, place)
            target = getattr(target, attribute)
        if not callable(target):
            raise ConfigError(f"{place}: {selector} is no function or class; gin binds only those.")
        self.functions[".".join([path, *attributes])] = target
        return target


def _statements(source: TextIO | str, where: str) -> Iterator[Any]:
    """Parses a file or one binding; a syntax error becomes a ConfigError with its line."""
    try:
        yield from config_parser.ConfigParser(source, _Mentions())
    except (SyntaxError, tokenize.TokenError) as error:
        if isinstance(error, SyntaxError):
            message, line = str(error.msg), error.lineno
        else:
            message, (line, _) = error.args
        if token := re.search(r"Failed to parse token '(.*)'", message):
            message = (
                f"{token[1]} is no number, quoted text, True, False, None, %MACRO or "
                "@function; quote it if it is text"
            )
        place = f"{where}:{line}" if not where.startswith("--gin.") else where
        raise ConfigError(f"{place}: this is not gin's syntax: {message}.") from error


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


# Starts like a word or a path, so that a mistyped number is an error instead of a string.
_PLAIN_TEXT = re.compile(r"([^\W\d]|[./~])[\w./:~+=-]*|\d+:\d+")


def _binding_line(binding: str) -> str:
    """Turns `NAME=VALUE` into one line of gin, quoting plain words and paths."""
    name, equals, value = (part.strip() for part in binding.partition("="))
    if not re.fullmatch(r"[A-Za-z_][\w./]*", name) or not equals or not value:
        raise ConfigError(f"--gin.{binding} was given; write --gin.NAME=VALUE.")
    line = f"{name} = {value}"
    try:
        list(_statements(line, f"--gin.{name}"))
    except ConfigError as error:
        if value.lower() in ("true", "false", "none"):
            raise ConfigError(
                f"--gin.{name}={value}: write {value.capitalize()}, as in Python."
            ) from error
        if not _PLAIN_TEXT.fullmatch(value):
            raise
        return f"{name} = {value!r}"
    return line


def _find(name: str, search: Iterable[str]) -> str | None:
    """Gives the first readable match; an absolute name matches only itself."""
    for folder in ("", *search):
        if os.path.isfile(path := os.path.join(folder, name)):
            return path
    return None


# gin's folders can only be added to, and its last reader imports a package called like the
# folder and logs an error when there is none. Ours goes first, hence the private name.
gin.config._FILE_READERS.insert(
    0,
    (
        lambda name: open(_find(name, _survey.search) or name, encoding="utf-8"),
        lambda name: _find(name, _survey.search) is not None,
    ),
)


def _raise_not_found(name: str, asked_by: str, search: Iterable[str]) -> NoReturn:
    folders = dict.fromkeys((os.getcwd(), *search))
    # gin files lie at most two levels deep; all of the current folder may be endless.
    known = {
        str(path.relative_to(folder))
        for folder in folders
        for pattern in ("*.gin", "*/*.gin")
        for path in Path(folder).glob(pattern)
    }
    raise ConfigError(
        f"{asked_by + ': ' if asked_by else ''}there is no gin file {name} in "
        f"{', '.join(folders)}; {_nearest(name, known)}. "
        "Add its folder with --gin_search_paths."
    )


def _import(name: str, place: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or name
        if not f"{name}.".startswith(f"{absent}."):
            raise ConfigError(
                f"{place}: {name} needs {absent}, which is not installed; install it "
                "(tasks need pip install 'alexatm_jax[data]')."
            ) from error
        raise ConfigError(f"{place}: {_explain_absent(absent)}.") from error


def _explain_absent(name: str) -> str:
    parent_name, _, last = name.rpartition(".")
    parent = importlib.import_module(parent_name) if parent_name else None
    if hasattr(parent, last):
        return f"{name} is no module; import {parent_name} and bind its {last}"
    folders = getattr(parent, "__path__", ()) if parent else None
    siblings = {module.name for module in pkgutil.iter_modules(folders)}
    return f"there is no module {name}; {_nearest(last, siblings)}"


def _raise_no_attribute(selector: str, attribute: str, target: Any, place: str) -> NoReturn:
    owner = getattr(target, "__name__", repr(target))
    public = [name for name in dir(target) if not name.startswith("_")]
    raise ConfigError(
        f"{place}: {owner} has no {attribute} (in {selector}); {_nearest(attribute, public)}."
    )


def _check_parameter(function: Any, selector: str, name: str, place: str) -> None:
    """Raises ConfigError if `function` takes no parameter called `name`."""
    if function is None:
        return
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    if name not in known:
        raise ConfigError(f"{place}: {selector} has no parameter {name}; {_nearest(name, known)}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    """Suggests the known names most like `name`, or else some of those there are."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=3, cutoff=0.6):
        return f"nearest: {', '.join(close)}"
    more = ", ..." if len(names) > 12 else ""
    return f"there are: {', '.join(names[:12]) or 'none'}{more}"


_survey = _Survey(())
