"""Few-shot prompts as data: templates, items and the shots shown before them.

An *item* is a plain dict, straight from JSON:

    id          str        unique within its task
    language    str        what result rows are grouped by
    shot_group  str        shots are drawn from pool entries of the same group
    target      str        the gold answer
    choices     list[str]  optional, to be ranked; all different
    answer      int        with choices: the index of the target in them
    ...         str        the fields that the query template names

An entry of the *shot pool* has `id`, `shot_group` and the fields of the shot template.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Any]

ALL_LANGUAGES = "all"
"""The language of the result rows that hold means; no item may have it."""


@dataclass(frozen=True)
class FewShotPrompt:
    """Templates in `str.format` style that make one prompt from an item and its shots.

    Attributes:
      shot: template of one solved example, its end of answer included; "" if the task is
        only ever asked without shots.
      query: template of the question, up to where the answer starts.
      prefix: chooses the model's mode: "[CLM] " continues the text, "" denoises it.
      separator: stands between the shots and the query.
      stop: ends an answer. The vocabulary drops newlines, so it must show on the page.

    Raises:
      ValueError: if a template is unreadable, the query has no field or the stop is blank.

    Source: recipe §5, after arXiv:2208.01448, Sec. 5.
    """

    shot: str
    query: str
    prefix: str = "[CLM] "
    separator: str = " "
    stop: str = ";"

    def __post_init__(self) -> None:
        template_fields(self.shot)
        if not template_fields(self.query):
            raise ValueError(
                f"query template {self.query!r} names no field, so that every item would "
                "get the same prompt; name one, as in 'Sentence: {src}; Translation:'."
            )
        if not self.stop.strip():
            raise ValueError(
                f"stop is {self.stop!r}; it must hold a visible character, because the "
                "vocabulary drops newlines; use ';' or '<br>'."
            )

    def fields(self) -> frozenset[str]:
        """Names of the text fields of both templates."""
        return template_fields(self.shot) | template_fields(self.query)

    def render(self, item: Item, shots: Sequence[Item]) -> str:
        """Writes the prompt: the prefix, the solved shots, then the item's query.

        Raises:
          ValueError: if shots are given to an empty shot template, or a field is missing.
        """
        if shots and not self.shot:
            raise ValueError(
                f"{len(shots)} shots for a prompt without shot template; ask with 0 shots "
                "or give the prompt a shot template."
            )
        solved = [_filled(self.shot, shot) for shot in shots]
        return self.prefix + self.separator.join([*solved, _filled(self.query, item)])

    def cut(self, answer: str) -> str:
        """Keeps what a generated text says before its first stop, without outer space."""
        return answer.split(self.stop, 1)[0].strip()


def template_fields(template: str) -> frozenset[str]:
    """Names of the fields of one template.

    Raises:
      ValueError: if braces do not match, or a field is more than a plain name.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"template {template!r} cannot be read: {error}; write fields as {{name}} and "
            "literal braces twice."
        ) from error
    for _, name, spec, conversion in parts:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(
                f"template {template!r} has the field {name!r}; a field must be a plain "
                "name without index or format, as in {src}."
            )
    return frozenset(name for _, name, _, _ in parts if name is not None)


def choose_shots(item: Item, pool: Iterable[Item], shots: int, seed: int) -> list[dict[str, Any]]:
    """Draws the solved examples that stand before an item.

    The draw hashes (seed, item, entry), so it depends neither on the order of the pool nor
    on the other items, and the first shots of a longer draw are those of a shorter one.

    Args:
      item: the item asked about; never among its own shots.
      pool: entries to draw from, without replacement, within the item's `shot_group`.
      shots: how many to draw.
      seed: another seed draws other shots.

    Raises:
      ValueError: if `shots` is negative or the group has too few entries.
    """
    if shots < 0:
        raise ValueError(f"{shots} shots asked for; the number must be 0 or more.")
    if shots == 0:
        return []
    group = [
        dict(entry)
        for entry in pool
        if entry["shot_group"] == item["shot_group"] and entry["id"] != item["id"]
    ]
    if len(group) < shots:
        raise ValueError(
            f"item {item['id']!r} needs {shots} shots of group {item['shot_group']!r}; the "
            f"pool has {len(group)} besides the item; add entries or ask for fewer shots."
        )
    group.sort(key=lambda entry: stable_hash(seed, item["id"], entry["id"]))
    return group[:shots]


def stable_hash(*parts: object) -> bytes:
    """Hashes the printed parts; the same in every process, unlike Python's `hash`."""
    return hashlib.sha256(repr(tuple(map(str, parts))).encode()).digest()


@dataclass(frozen=True)
class FewShotTask:
    """A prompt with the items to ask and the pool their shots come from.

    Raises:
      ValueError: naming the task, the item and the remedy, if an item or a pool entry
        cannot be asked as it stands.
    """

    name: str
    prompt: FewShotPrompt
    items: Sequence[Item]
    shots: Sequence[Item]

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f"task {self.name!r} has no items; give it at least one.")
        query, shot = template_fields(self.prompt.query), template_fields(self.prompt.shot)
        named = {"id", "shot_group"}
        self._check_entries("item", self.items, named | {"language", "target"} | query)
        self._check_entries("shot", self.shots, named | shot)
        for item in self.items:
            problem = _text_problem(item, self.prompt.stop) or _choice_problem(item)
            if problem:
                raise ValueError(f"task {self.name!r}, item {item['id']!r}: {problem}")

    def _check_entries(self, kind: str, entries: Sequence[Item], names: set[str]) -> None:
        seen: set[str] = set()
        for entry in entries:
            label = f"task {self.name!r}, {kind} {entry.get('id')!r}"
            wrong = sorted(name for name in names if not isinstance(entry.get(name), str))
            if wrong:
                raise ValueError(
                    f"{label}: {wrong} missing or not text; it has {sorted(entry)}; give "
                    "every field as a string or take it out of the template."
                )
            if entry["id"] in seen:
                raise ValueError(f"{label} occurs twice; give every {kind} its own id.")
            seen.add(entry["id"])

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> FewShotTask:
        """Reads `{cache_dir}/evaluation/{task}.json` once it is decoded.

        Raises:
          ValueError: if a key is missing or unknown, or the task is not sound.
        """
        label = f"evaluation task {payload.get('name')!r}"
        keys = {"name", "prompt", "items", "shots"}
        if set(payload) != keys:
            raise ValueError(
                f"{label} has the keys {sorted(payload)}; it needs {sorted(keys)}; write "
                "the cache again with --run_mode=cache."
            )
        try:
            prompt = FewShotPrompt(**payload["prompt"])
        except TypeError as error:
            raise ValueError(
                f"{label} has the prompt {payload['prompt']!r}: {error}; it may have the "
                f"fields {sorted(FewShotPrompt.__dataclass_fields__)}; write it again."
            ) from error
        items, shots = tuple(payload["items"]), tuple(payload["shots"])
        return cls(payload["name"], prompt, items, shots)


def _text_problem(item: Item, stop: str) -> str | None:
    if item["language"] == ALL_LANGUAGES:
        return f"the language {ALL_LANGUAGES!r} is kept for the means; name it otherwise."
    if not item["target"].strip():
        return "the target is blank; give the gold answer."
    if stop in item["target"]:
        return (
            f"the target {item['target']!r} holds the stop {stop!r}, so no answer could "
            "equal it; choose another stop."
        )
    return None


def _choice_problem(item: Item) -> str | None:
    choices, answer = item.get("choices"), item.get("answer")
    if choices is None and answer is None:
        return None
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        return f"choices are {choices!r}; give a list of texts beside the answer's index."
    if len(choices) < 2 or len(set(choices)) != len(choices):
        return f"choices are {choices!r}; give two or more, all different."
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        return f"answer is {answer!r}; give an index from 0 to {len(choices) - 1}."
    if choices[answer] != item["target"]:
        return (
            f"answer {answer} points at {choices[answer]!r}, the target is "
            f"{item['target']!r}; let the index point at the target."
        )
    return None


def _filled(template: str, entry: Item) -> str:
    missing = sorted(template_fields(template) - set(entry))
    if missing:
        raise ValueError(
            f"entry {entry.get('id')!r} has no {missing}, which the template {template!r} "
            f"names; it has {sorted(entry)}; add the fields or change the template."
        )
    return template.format_map(entry)
