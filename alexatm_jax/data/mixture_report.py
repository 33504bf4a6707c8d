"""Prints what a mixture is made of, and how far training has drifted from it.

A mixture is known here by what the cache holds: tasks, their rates and labels, and what was counted
in each corpus. It need not come from a recipe; without labels, corpora stand for sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from alexatm_jax.data.cache import MixtureSpec, TaskSpec
from alexatm_jax.data.rate_factors import with_factors

PAPER_SHARES = {"wikipedia": 0.09, "mc4": 0.91}
"""Of the paper's text tokens, 119 B and 1.2 T (recipe §2); for mixtures of sources so named."""

LARGEST_DRIFT = 1.0
"""Percentage points by which a realised share may differ before it is a warning; ours."""

FEWEST_TOKENS = 1_000_000
"""Before so many text tokens a share is chance."""

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


class Counts(Protocol):
    """How much of a corpus there is; `cache.Provenance` tells."""

    @property
    def num_sentences(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


def drawn(spec: MixtureSpec, phases: Sequence[tuple[Mapping[str, float], float]]) -> MixtureSpec:
    """Gives the mixture that one phase of training draws, or several draw together.

    Args:
      spec: the mixture.
      phases: of each, its rate factors, as `rate_factors.with_factors` reads them, and how many
        text tokens it draws.

    Returns:
      Its tasks with shares that sum to 1; those of which nothing is drawn are left out.

    Raises:
      ValueError: if a factor is negative or belongs to no task, or nothing is drawn.
    """
    shares = _shares(spec)
    sums = dict.fromkeys(shares, 0.0)
    for factors, tokens in phases:
        rates = with_factors(shares, factors)
        for name, rate in rates.items():
            sums[name] += tokens * rate / sum(rates.values())
    total = sum(sums.values())
    if not total > 0:
        raise ValueError(f"the phases {list(phases)} draw no token; give one that does.")
    tasks = [replace(task, rate=sums[task.name] / total) for task in spec.tasks if sums[task.name]]
    return replace(spec, tasks=tuple(tasks))


def as_json(
    spec: MixtureSpec,
    provenances: Mapping[str, Counts],
    target_tokens: float = 1e9,
) -> dict[str, Any]:
    """Gives the whole specification of a mixture as one JSON-able object.

    Args:
      spec: the mixture; its rates are shares of text tokens.
      provenances: of each of its corpora, by name.
      target_tokens: how many text tokens are drawn, for "epochs": how often a text is then read.

    Returns:
      "mixture", "vocabulary_sha256", "target_tokens", "num_tasks", "num_corpora", "num_tokens";
      "languages": name to "sentences", "p" (their part of all), "q" (share of the text tokens),
      "tokens" and "epochs"; "texts": a list of "source", "form", "tokens", "share", "epochs",
      "least" and "most" (epochs by language); "sources": name to "share" and "paper" (None where
      it has no such sources); "objectives": name to share; "tasks": name to share.

    Raises:
      ValueError: if the counts of a corpus are missing.
    """
    if missing := sorted(set(spec.corpora) - set(provenances)):
        raise ValueError(
            f"mixture {spec.mixture!r} has the corpora {missing}, whose counts are not given; "
            "pass the provenance of each."
        )
    shares = _shares(spec)
    corpora = _Corpora(spec.tasks, provenances, shares, target_tokens)
    sources = _sums(spec.tasks, shares, "source")
    paper = PAPER_SHARES if set(sources) == set(PAPER_SHARES) else {}
    return {
        "mixture": spec.mixture,
        "vocabulary_sha256": spec.vocabulary_sha256,
        "target_tokens": target_tokens,
        "num_tasks": len(spec.tasks),
        "num_corpora": len(corpora.names),
        "num_tokens": corpora.tokens(corpora.names),
        "languages": corpora.languages(),
        "texts": corpora.texts(),
        "sources": {
            name: {"share": share, "paper": paper.get(name)} for name, share in sources.items()
        },
        "objectives": _sums(spec.tasks, shares, "objective"),
        "tasks": shares,
    }


def table(
    spec: MixtureSpec,
    provenances: Mapping[str, Counts],
    target_tokens: float = 1e9,
) -> str:
    """Prints the specification for people, in at most 100 columns and without listing tasks.

    The arguments and errors are those of `as_json`.
    """
    content = as_json(spec, provenances, target_tokens)
    lines = [
        f"mixture {spec.mixture}: {content['num_tasks']} tasks over {content['num_corpora']} "
        f"corpora, {_short(content['num_tokens'])} text tokens",
        f"shares are of text tokens; epochs are those of drawing {_short(target_tokens)} of them",
    ]
    if content["languages"]:
        lines += ["", *_language_lines(content["languages"])]
    lines += ["", *_text_lines(content)]
    lines += ["", *_objective_lines(content["objectives"])]
    return "\n".join(lines)


@dataclass(frozen=True)
class Difference:
    """How much of the text tokens one language, source, form or objective was meant to get."""

    kind: str
    name: str
    realised: float
    expected: float

    @property
    def points(self) -> float:
        """Percentage points above what was expected; negative below."""
        return 100 * (self.realised - self.expected)


@dataclass(frozen=True)
class Drift:
    """Realised shares of the text tokens beside the expected ones.

    Attributes:
      text_tokens: how many have been read.
      differences: of each language, source, form and objective.
    """

    text_tokens: int
    differences: tuple[Difference, ...]

    @property
    def largest(self) -> Difference:
        """The difference that is furthest from 0."""
        return max(self.differences, key=lambda difference: abs(difference.points))

    def lines(self) -> list[str]:
        """Tells all shares, one line for each kind."""
        kinds = dict.fromkeys(difference.kind for difference in self.differences)
        return [
            f"{kind} share of {_short(self.text_tokens)} text tokens (expected): "
            + ", ".join(
                f"{difference.name} {100 * difference.realised:.2f} % "
                f"({100 * difference.expected:.2f})"
                for difference in self.differences
                if difference.kind == kind
            )
            for kind in kinds
        ]

    @property
    def warning(self) -> str | None:
        """Says what has drifted too far, once there are tokens enough to tell."""
        largest = self.largest
        if self.text_tokens < FEWEST_TOKENS or abs(largest.points) <= LARGEST_DRIFT:
            return None
        return (
            f"after {self.text_tokens} text tokens the {largest.kind} {largest.name!r} has "
            f"{100 * largest.realised:.2f} % of them where the mixture says "
            f"{100 * largest.expected:.2f} %, {largest.points:+.2f} points; more than "
            f"{LARGEST_DRIFT:g} is no chance: see which of its tasks are short of documents, or "
            "make the cache and the mixture again."
        )


def drift(statistics: Mapping[str, Any], spec: MixtureSpec) -> Drift:
    """Compares what a reader has drawn with what the mixture says.

    Args:
      statistics: of `BatchReader.statistics`; the tasks' "text_tokens" and "expected" are read.
      spec: the mixture that was read, whose labels tell the groups.
    """
    tasks = statistics["tasks"]
    total = sum(tasks[task.name]["text_tokens"] for task in spec.tasks)
    realised = {task.name: tasks[task.name]["text_tokens"] / max(total, 1) for task in spec.tasks}
    expected = {task.name: tasks[task.name]["expected"] for task in spec.tasks}
    differences = []
    for kind in ("language", "source", "form", "objective"):
        found = _sums(spec.tasks, realised, kind)
        wanted = _sums(spec.tasks, expected, kind)
        differences += [Difference(kind, name, found[name], wanted[name]) for name in wanted]
    return Drift(total, tuple(differences))


@dataclass(frozen=True)
class _Corpora:
    """The corpora of a mixture, what was counted in them, and how often they are read."""

    tasks: Sequence[TaskSpec]
    provenances: Mapping[str, Counts]
    shares: Mapping[str, float]
    target_tokens: float

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(task.corpus for task in self.tasks))

    def tokens(self, names: Iterable[str]) -> int:
        return sum(self.provenances[name].num_tokens for name in names)

    def share(self, names: Sequence[str]) -> float:
        return sum(self.shares[task.name] for task in self.tasks if task.corpus in names)

    def epochs(self, names: Sequence[str]) -> float:
        return self.share(names) * self.target_tokens / self.tokens(names)

    def grouped(self, key: Callable[[TaskSpec], Any]) -> dict[Any, list[str]]:
        """Groups the corpora by what their tasks are labelled with."""
        groups: dict[Any, dict[str, None]] = defaultdict(dict)
        for task in self.tasks:
            groups[key(task)][task.corpus] = None
        return {label: list(names) for label, names in groups.items()}

    def languages(self) -> dict[str, dict[str, Any]]:
        groups = self.grouped(lambda task: task.labels.get("language"))
        groups.pop(None, None)
        labels = {task.corpus: task.labels for task in self.tasks if task.labels}
        counts = sentences_by_language(labels, self.provenances)
        total = max(sum(counts.values()), 1)
        return {
            language: {
                "sentences": counts[language],
                "p": counts[language] / total,
                "q": self.share(names),
                "tokens": self.tokens(names),
                "epochs": self.epochs(names),
            }
            for language, names in sorted(groups.items())
        }

    def texts(self) -> list[dict[str, Any]]:
        groups = self.grouped(lambda task: (_label(task, "source"), task.labels.get("form", "")))
        rows = []
        for (source, form), names in groups.items():
            epochs = {self._language(name): self.epochs([name]) for name in names}
            ends = (min(epochs, key=epochs.__getitem__), max(epochs, key=epochs.__getitem__))
            least, most = ({"language": end, "epochs": epochs[end]} for end in ends)
            rows.append(
                {"source": source, "form": form, "tokens": self.tokens(names)}
                | {"share": self.share(names), "epochs": self.epochs(names)}
                | {"least": least, "most": most}
            )
        return rows

    def _language(self, name: str) -> str:
        task = next(task for task in self.tasks if task.corpus == name)
        return task.labels.get("language", "")


def sentences_by_language(
    labels: Mapping[str, Mapping[str, str]], counts: Mapping[str, Counts]
) -> dict[str, int]:
    """Sums sentences over sources; a text that is there in two forms counts once.

    Args:
      labels: corpus to its "language" and "source".
      counts: corpus to what was counted in it.
    """
    texts: dict[tuple[str, str], int] = {}
    for corpus, label in labels.items():
        text = (label["language"], label["source"])
        texts[text] = max(texts.get(text, 0), counts[corpus].num_sentences)
    sums: dict[str, int] = {}
    for (language, _), count in texts.items():
        sums[language] = sums.get(language, 0) + count
    return sums


def _shares(spec: MixtureSpec) -> dict[str, float]:
    total = sum(task.rate for task in spec.tasks)
    return {task.name: task.rate / total for task in spec.tasks}


def _label(task: TaskSpec, kind: str) -> str | None:
    """Names the group that a task belongs to; None where it carries no such label."""
    if kind == "objective":
        return str(task.objective["kind"])
    return task.labels.get(kind, task.corpus if kind == "source" else None)


def _sums(tasks: Iterable[TaskSpec], values: Mapping[str, float], kind: str) -> dict[str, float]:
    """Sums a value of each task over the tasks of one label."""
    sums: dict[str, float] = {}
    for task in tasks:
        if (label := _label(task, kind)) is not None:
            sums[label] = sums.get(label, 0.0) + values[task.name]
    return sums


def _language_lines(languages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"{'language':<10}{'sentences':>12}{'p':>10}{'q':>10}{'tokens':>12}{'epochs':>12}"]
    for name, row in languages.items():
        lines.append(
            f"{name:<10}{_short(row['sentences']):>12}{_percent(row['p']):>10}"
            f"{_percent(row['q']):>10}{_short(row['tokens']):>12}{_epochs(row['epochs']):>12}"
        )
    return lines


def _text_lines(content: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{'source':<22}{'form':<10}{'tokens':>10}{'share':>10}{'epochs':>12}{'least':>15}{'most':>15}"
    ]
    for row in content["texts"]:
        ends = [
            f"{_epochs(row[end]['epochs'])} {row[end]['language']}" for end in ("least", "most")
        ]
        lines.append(
            f"{_fitted(row['source']):<22}{row['form']:<10}{_short(row['tokens']):>10}"
            f"{_percent(row['share']):>10}{_epochs(row['epochs']):>12}{ends[0]:>15}{ends[1]:>15}"
        )
    for name, source in content["sources"].items():
        paper = "" if source["paper"] is None else f"  (the paper: {source['paper']:.0%})"
        lines.append(f"{_fitted(name):<22}{'all':<20}{_percent(source['share']):>12}{paper}")
    return lines


def _objective_lines(objectives: Mapping[str, float]) -> list[str]:
    return [f"{'objective':<22}{'share':>30}"] + [
        f"{name:<22}{_percent(share):>30}" for name, share in objectives.items()
    ]


def _fitted(name: str, width: int = 21) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _epochs(epochs: float) -> str:
    return f"{epochs:.3g}" if epochs < 999.5 else _short(epochs)


def _short(count: float) -> str:
    """Writes a count with three digits: 1.23 M."""
    for size, unit in _UNITS:
        if count >= size * 0.9995:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"
