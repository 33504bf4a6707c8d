"""Draws rows, document lengths and fill as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from alexatm_jax.data.inspection.figures import Lengths
from alexatm_jax.data.inspection.traced_rows import Row, Segment
from alexatm_jax.data.pipeline import ReaderConfig

_GOLDEN_ANGLE = 137.508  # degrees: however many hues there are, neighbours differ
_BAR, _GAP, _WIDTH, _MARGIN = 22, 3, 1000, 64

PATTERNS = (
    '<svg width="0" height="0" class="hidden"><defs>'
    '<pattern id="padding" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" fill="#f1f1ee"/>'
    '<rect width="2" height="6" fill="#d4d4cd"/></pattern>'
    '<pattern id="clm" width="7" height="7" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="3" height="7" fill="#fff" opacity=".45"/>'
    "</pattern></defs></svg>"
)
"""What other pictures of the page fill with: padding, and CLM over a task's colour."""


def colors(names: Sequence[str]) -> dict[str, str]:
    """Gives each name a colour of its own."""
    return {
        name: f"hsl({index * _GOLDEN_ANGLE % 360:.0f} 52% {(46, 60, 36)[index % 3]}%)"
        for index, name in enumerate(names)
    }


def rows(
    rows: Sequence[Row], config: ReaderConfig, color_of: Mapping[str, str], separator: int
) -> str:
    """Draws rows: encoder above, decoder below, a block a segment, hatched where it is padding.

    Args:
      rows: what to draw.
      config: lengths of the two sides.
      color_of: colour of each task, by its name.
      separator: id of `[DOC]`, drawn as a line through its segment.
    """
    per_row = 2 * _BAR + _GAP + 16
    scale = _WIDTH / max(config.encoder_length, config.decoder_length)
    parts = []
    for number, row in enumerate(rows):
        top = number * per_row
        sides = (
            ("encoder", config.encoder_length, [segment.encoder_tokens for segment in row]),
            ("decoder", config.decoder_length, [segment.targets for segment in row]),
        )
        for side, (name, length, tokens) in enumerate(sides):
            y = top + side * (_BAR + _GAP)
            parts.append(f'<text x="{_MARGIN - 8}" y="{y + 15}" class="side">{name}</text>')
            parts.append(_rect(_MARGIN, y, length * scale, "url(#padding)", "padding"))
            parts += _blocks(row, tokens, scale, y, color_of, separator)
    return _svg(_MARGIN + _WIDTH, len(rows) * per_row - 16, "".join(parts), "rows")


def histogram(lengths: Lengths, num_bins: int) -> str:
    """Draws the document lengths of a corpus over logarithmic bins, leaving room for so many."""
    width, height, base = 260, 84, 68
    step = width / num_bins
    tallest = lengths.counts.max()
    parts = []
    for index, count in enumerate(lengths.counts):
        tall = 60 * count / tallest
        begin, end = lengths.edges[index], lengths.edges[index + 1] - 1
        title = f"{begin} to {end} tokens: {count:,} documents"
        parts.append(_rect(index * step, base - tall, step - 1, "#4a6fa5", title, tall))
    for index, edge in enumerate(lengths.edges[:-1]):
        if edge & (edge - 1) == 0 and np.log2(edge) % 2 == 0:  # 1, 4, 16, 64, ...
            parts.append(
                f'<text x="{index * step:.1f}" y="{height - 3}" class="tick">{edge}</text>'
            )
    line = f'<line x1="0" x2="{width}" y1="{base}" y2="{base}" class="axis"/>'
    return _svg(width, height, "".join(parts) + line, "histogram")


def meter(share: float) -> str:
    """Draws how much of a row's side is filled; the rest is hatched as padding."""
    bar = _rect(0, 0, 300, "url(#padding)", "padding", 14)
    return _svg(300, 14, bar + _rect(0, 0, 300 * share, "#3f7d5a", f"{share:.2%}", 14), "meter")


def _blocks(
    row: Row,
    tokens: Sequence[np.ndarray],
    scale: float,
    y: float,
    color_of: Mapping[str, str],
    separator: int,
) -> list[str]:
    parts, begin = [], 0
    for segment, ids in zip(row, tokens, strict=True):
        x, width = _MARGIN + begin * scale, len(ids) * scale
        title = f"{segment.task}: {len(ids)} tokens"
        parts.append(_rect(x, y, width, color_of.get(segment.task, "#888"), title))
        if segment.objective == "clm":
            parts.append(_rect(x, y, width, "url(#clm)", title))
        separators = np.flatnonzero(ids == separator)
        for place in separators:
            parts.append(_rect(x + (place + 0.5) * scale - 0.75, y, 1.5, "#fff", "[DOC]"))
        if not len(separators):
            parts.append(_label(segment, x, y, width))
        begin += len(ids)
    return parts


def _label(segment: Segment, x: float, y: float, width: float) -> str:
    # About 6.5 units a letter; a label that does not fit is left to the tooltip.
    if width < 6.5 * len(segment.task) + 8:
        return ""
    return f'<text x="{x + 5:.1f}" y="{y + 15}" class="block">{escape(segment.task)}</text>'


def _rect(x: float, y: float, width: float, fill: str, title: str, height: float = _BAR) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{fill}"><title>{escape(title)}</title></rect>'
    )


def _svg(width: float, height: float, content: str, kind: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" class="{kind}" role="img" '
        f'aria-label="{kind}">{content}</svg>'
    )
