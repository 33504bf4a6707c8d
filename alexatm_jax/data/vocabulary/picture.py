"""Draws the report of a vocabulary as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Of the palette of Okabe and Ito, which colour-blind readers tell apart.
_COLOURS = {"spoken": "#0072B2", "written": "#E69F00"}
_GREY, _LIGHT = "#7A7A7A", "#BFBFBF"
_SIZE_INCHES = (16.0, 11.5)
_PIXELS_PER_INCH = 100
_PANELS = (
    ("pieces_per_word", 1, "{:.2f}", "Pieces per word"),
    ("characters_per_piece", 1, "{:.1f}", "Characters per piece"),
    ("whole_word_share", 100, "{:.0f}", "Words kept in one piece (%)"),
    ("byte_character_share", 100, "{:.2g}", "Characters spelt in bytes (%)"),
)
"""Figure, what to multiply it with, how to write it, title."""


def draw_report(content: Mapping[str, Any], path: Path) -> None:
    """Draws what `report.report` gives as a PNG of 1600 x 1150 pixels.

    Above, a panel per figure with two bars per language, spoken and written. Below, what the
    sample took of each language, how many pieces each uses, and what the pieces are.
    """
    figure = Figure(_SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.25, 1])[:, 0]
    languages = list(dict.fromkeys(row["language"] for row in content["held_out"]))
    panels = upper.subplots(1, len(_PANELS))
    for axes, (name, factor, style, title) in zip(panels, _PANELS, strict=True):
        _draw_forms(axes, content["held_out"], languages, name, factor, style)
        axes.set_title(title, size=13, loc="left")
    upper.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    _draw_lower(list(lower.subplots(1, 3 if content["sample"] else 2)), content, languages)
    _title(figure, content)
    figure.savefig(path, format="png", dpi=_PIXELS_PER_INCH)


def _draw_lower(panels: Sequence[Axes], content: Mapping[str, Any], languages: list[str]) -> None:
    *first, using, counting = panels
    for axes in first:
        _draw_sample(axes, content["sample"]["languages"])
    _draw_forms(using, content["held_out"], languages, "num_pieces_used", 1, "{:,.0f}")
    using.set_title("Pieces used on held-out text", size=13, loc="left")
    made_of = content["vocabulary"]
    kinds = {kind: n for kind, n in made_of["kinds"].items() if kind not in ("learned", "added")}
    _draw_counts(counting, made_of["scripts"], kinds)


def _draw_forms(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    languages: Sequence[str],
    name: str,
    factor: float,
    style: str,
) -> None:
    for index, (form, colour) in enumerate(_COLOURS.items()):
        values = {
            row["language"]: factor * row[name]
            for row in rows
            if row["form"] == form and row[name] is not None
        }
        places = [languages.index(language) + 0.4 * index - 0.2 for language in values]
        bars = axes.barh(places, list(values.values()), 0.38, color=colour, label=form)
        axes.bar_label(
            bars, [style.format(value) for value in values.values()], size=8.5, padding=3
        )
    present = {row["language"] for row in rows if row[name] is not None}
    for language in set(languages) - present:
        axes.text(0, languages.index(language), " words are not parted", va="center", color=_GREY)
    _name_bars(axes, languages)


def _draw_sample(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for all_of_it, colour, label in (
        (False, _LIGHT, "drawn"),
        (True, _GREY, "drawn: all there is"),
    ):
        own = {place: row for place, row in enumerate(rows) if row["gave_all"] == all_of_it}
        if own:
            widths = [100 * row["share_drawn"] for row in own.values()]
            axes.barh(list(own), widths, 0.65, color=colour, label=label)
    asked = [100 * row["share_asked"] for row in rows]
    marks = axes.plot(asked, range(len(rows)), "|", color="#D55E00", label="by the formula")
    marks[0].set(markersize=15, markeredgewidth=2.5)
    axes.set_title("Share of the sample's sentences (%)", size=13, loc="left")
    _name_bars(axes, [row["language"] for row in rows])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)


def _draw_counts(axes: Axes, scripts: Mapping[str, int], kinds: Mapping[str, int]) -> None:
    counts = {**scripts, **{f"({kind})": number for kind, number in kinds.items()}}
    bars = axes.barh(range(len(counts)), list(counts.values()), 0.65, color=_GREY)
    axes.bar_label(bars, [f"{count:,}" for count in counts.values()], size=8.5, padding=3)
    axes.set_title("Pieces by script (and those no text has)", size=13, loc="left")
    _name_bars(axes, list(counts))


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#E9E9E9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=11)


def _title(figure: Figure, content: Mapping[str, Any]) -> None:
    vocabulary, used = content["vocabulary"], content["used"]
    figure.suptitle(
        f"{vocabulary['name']}: {vocabulary['size']:,} pieces on held-out sentences, which use "
        f"{used['pieces']:,} of the {used['of']:,} that text can give",
        x=0.008,
        ha="left",
        size=17,
        weight="bold",
    )
