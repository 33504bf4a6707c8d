"""Writes an inspection as one HTML page that needs nothing else, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.inspection import pictures
from alexatm_jax.data.inspection.figures import Inspection, Lengths
from alexatm_jax.data.inspection.traced_rows import Segment
from alexatm_jax.data.mixture_report import Difference, table
from alexatm_jax.data.vocabulary import SPECIAL_PIECES, Vocabulary

_OPEN_TASKS = 8

_STYLE = """
:root { --ink: #23262b; --dim: #6a6f76; --line: #e3e3dd; --accent: #4a6fa5; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 2.2rem 1.6rem 5rem; color: var(--ink);
  background: #fcfcfa; font: 15px/1.55 system-ui, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
p.note, .dim { color: var(--dim); }
p.note { max-width: 75ch; margin: .2rem 0 .9rem; font-size: .92rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1.4rem; }
.card { flex: 1 1 150px; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 600; }
.card span { color: var(--dim); font-size: .85rem; }
.scroll { overflow-x: auto; }
pre { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .9rem;
  font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; margin: 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; background: #fff; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--dim); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
.shares { columns: 460px 2; column-gap: 2rem; }
.shares > div { break-inside: avoid; margin-bottom: 1.2rem; }
.bar { position: relative; width: 140px; height: 12px; background: #f1f1ee; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--accent); }
.bar u { position: absolute; top: -3px; bottom: -3px; width: 2px; background: #c2452d; }
svg { display: block; max-width: 100%; }
svg.hidden { position: absolute; }
svg.rows { width: 100%; }
svg.meter { width: 300px; }
text { font: 11px system-ui, sans-serif; fill: var(--dim); }
text.side { text-anchor: end; }
text.block { fill: #fff; font-weight: 600; }
svg.rows rect { stroke: #fcfcfa; stroke-width: .6; }
.axis { stroke: #b9b9b2; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin-top: .7rem;
  font-size: .85rem; }
.legend i { display: inline-block; width: .9em; height: .9em; border-radius: 2px;
  margin-right: .4em; vertical-align: -.1em; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 1.2rem; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .8rem; }
figcaption { font-size: .85rem; margin-bottom: .5rem; overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
.example { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .9rem; margin: .5rem 0; max-height: 19rem; overflow: auto;
  overflow-wrap: anywhere; line-height: 1.75; }
.example p { margin: .15rem 0; }
.example .size { color: var(--dim); font-size: .8rem; }
del { background: #fbdcd5; color: #a03420; text-decoration-thickness: 1.5px; border-radius: 2px; }
ins { background: #dcebdc; color: #1f5a35; text-decoration: none; border-radius: 2px; }
bdi.special { font: 600 .74em ui-monospace, monospace; color: #fff; background: var(--accent);
  border-radius: 4px; padding: .1em .4em; margin: 0 .25em; white-space: nowrap; }
"""


def page(inspection: Inspection) -> str:
    """Gives the whole report as one HTML document, pictures and style within."""
    title = escape(inspection.spec.mixture)
    sections = [
        _head(inspection),
        _section("Specification", _specification(inspection)),
        _section("Shares of the text tokens", _shares(inspection)),
        _section("Packing", _packing(inspection)),
        _section("Document lengths", _lengths(inspection)),
        _section("Examples", _examples(inspection)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{pictures.PATTERNS}{''.join(sections)}</body></html>\n"
    )


def text(inspection: Inspection) -> str:
    """Gives the figures of the report as plain text."""
    lines = [f"{inspection.spec.mixture}: {_what_was_read(inspection)}", ""]
    lines += [f"{value:>12}  {name}" for name, value in _key_figures(inspection)]
    lines += ["", table(inspection.spec, inspection.provenances)]
    for kind, shares in _by_kind(inspection).items():
        lines += ["", *_columns([(f"text tokens by {kind}", *_SHARE_HEAD), *map(_cells, shares)])]
    tasks = [_TASK_HEAD, *(_task_cells(inspection, task) for task in inspection.spec.tasks)]
    lengths: list[tuple[str, ...]] = [_LENGTH_HEAD]
    lengths += [_length_cells(name, found) for name, found in inspection.lengths.items()]
    return "\n".join([*lines, "", *_columns(tasks), "", *_columns(lengths)])


def _what_was_read(inspection: Inspection) -> str:
    config, batches = inspection.config, len(inspection.decoder_fill)
    return (
        f"{batches} batches of {config.batch_size} x ({config.encoder_length} + "
        f"{config.decoder_length}) tokens, packing {config.packing}, "
        f"num_streams {config.num_streams}, seed {config.seed}"
    )


def _key_figures(inspection: Inspection) -> list[tuple[str, str]]:
    """Lists names and values of the figures to see first."""
    drift = inspection.drift
    epochs = max(task["epochs"] for task in inspection.statistics["tasks"].values())
    return [
        ("decoder side filled", f"{inspection.decoder_fill.mean():.1%}"),
        ("encoder side filled", f"{inspection.encoder_fill.mean():.1%}"),
        (f"furthest from its share: {drift.largest.name}", f"{drift.largest.points:+.2f} pp"),
        ("text tokens read", f"{drift.text_tokens:,}"),
        ("epochs of the corpus read most", f"{epochs:.3g}"),
        ("tokens/s read, one process", f"{inspection.tokens_per_second:,.0f}"),
    ]


def _head(inspection: Inspection) -> str:
    cards = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in _key_figures(inspection)
    )
    return (
        f"<h1>{escape(inspection.spec.mixture)}</h1>"
        f'<p class="dim">{escape(_what_was_read(inspection))}</p><div class="cards">{cards}</div>'
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _note(content: str) -> str:
    return f'<p class="note">{content}</p>'


def _specification(inspection: Inspection) -> str:
    vocabulary = inspection.vocabulary
    rows = [_task_cells(inspection, task) for task in inspection.spec.tasks]
    listed = _details(f"{len(rows)} tasks", _table(_TASK_HEAD, rows), len(rows) <= _OPEN_TASKS)
    whole = f"<pre>{escape(table(inspection.spec, inspection.provenances))}</pre>"
    known = f"Vocabulary of {vocabulary.size:,} pieces, sha256 {vocabulary.sha256[:16]}…"
    return _note(known) + whole + listed


_TASK_HEAD = ("task", "objective", "share", "documents", "tokens", "sentences", "dropped", "epochs")


def _task_cells(inspection: Inspection, task: TaskSpec) -> tuple[str, ...]:
    corpus = inspection.provenances[task.corpus]
    measured = inspection.statistics["tasks"][task.name]
    return (
        task.name,
        task.objective["kind"],
        f"{measured['expected']:.2%}",
        f"{corpus.num_documents:,}",
        f"{corpus.num_tokens:,}",
        f"{corpus.num_sentences:,}",
        f"{corpus.num_dropped:,}",
        f"{measured['epochs']:.3g}",
    )


_SHARE_HEAD = ("expected", "read", "points")


def _by_kind(inspection: Inspection) -> dict[str, list[Difference]]:
    kinds: dict[str, list[Difference]] = {}
    for difference in inspection.drift.differences:
        kinds.setdefault(difference.kind, []).append(difference)
    return kinds


def _cells(share: Difference) -> tuple[str, ...]:
    return share.name, f"{share.expected:.2%}", f"{share.realised:.2%}", f"{share.points:+.2f}"


def _shares(inspection: Inspection) -> str:
    note = _note(
        "A token of a document counts once, whatever the objective makes of it. Blue is what was "
        "read, the red line what the mixture asks for."
    )
    tables = "".join(_share_table(*item) for item in _by_kind(inspection).items())
    return f'{note}<div class="shares">{tables}</div>'


def _share_table(kind: str, shares: Sequence[Difference]) -> str:
    widest = max(max(share.expected, share.realised) for share in shares)
    rows = []
    for share in shares:
        read, wanted = (100 * value / widest for value in (share.realised, share.expected))
        bar = f'<i style="width:{read:.2f}%"></i><u style="left:calc({wanted:.2f}% - 1px)"></u>'
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in _cells(share)[1:])
        name = f"<td>{escape(share.name)}</td>"
        rows.append(f'<tr>{name}<td><div class="bar">{bar}</div></td>{cells}</tr>')
    head = "".join(f"<th>{name}</th>" for name in ("by " + escape(kind), "", *_SHARE_HEAD))
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _packing(inspection: Inspection) -> str:
    sides = (("encoder", inspection.encoder_fill), ("decoder", inspection.decoder_fill))
    rows = "".join(
        f"<tr><td>{name}</td><td>{pictures.meter(float(fill.mean()))}</td>"
        f"<td>{fill.mean():.2%}</td><td>{fill.min():.2%}</td></tr>"
        for name, fill in sides
    )
    head = "<tr><th>side</th><th></th><th>filled</th><th>least full batch</th></tr>"
    corpus_of = {task.name: task.corpus for task in inspection.spec.tasks}
    colors = pictures.colors(list(inspection.provenances))
    color_of = {task: colors[corpus] for task, corpus in corpus_of.items()}
    separator = inspection.vocabulary.special.doc
    drawn = pictures.rows(inspection.rows, inspection.config, color_of, separator)
    note = _note(
        f"The first {len(inspection.rows)} rows. A block is a segment, which sees no other; "
        "white lines are [DOC]; striped blocks are continued (CLM), the others denoised; the grey "
        "hatch is padding."
    )
    seen = {corpus_of.get(segment.task) for row in inspection.rows for segment in row}
    legend = "".join(
        f'<span><i style="background:{color}"></i>{escape(corpus)}</span>'
        for corpus, color in colors.items()
        if corpus in seen
    )
    table = f'<div class="scroll"><table>{head}{rows}</table></div>'
    return f'{table}<h3>Rows</h3>{note}{drawn}<div class="legend">{legend}</div>'


_LENGTH_HEAD = ("corpus", "documents", "mean", "median", "99 %", "longest")


def _length_cells(name: str, lengths: Lengths) -> tuple[str, ...]:
    return (
        name,
        f"{lengths.num_documents:,}",
        f"{lengths.mean:,.1f}",
        f"{lengths.median:,.0f}",
        f"{lengths.percentile_99:,.0f}",
        f"{lengths.longest:,}",
    )


def _lengths(inspection: Inspection) -> str:
    figures = []
    num_bins = max(len(lengths.counts) for lengths in inspection.lengths.values())
    for name, lengths in inspection.lengths.items():
        _, documents, mean, median, percentile, longest = _length_cells(name, lengths)
        caption = (
            f"<b>{escape(name)}</b><br><span class='dim'>{documents} documents; mean {mean}, "
            f"median {median}, 99 % below {percentile}, longest {longest}</span>"
        )
        drawn = pictures.histogram(lengths, num_bins)
        figures.append(f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>")
    note = _note("Documents by their number of tokens, on a logarithmic scale.")
    return f'{note}<div class="grid">{"".join(figures)}</div>'


def _examples(inspection: Inspection) -> str:
    note = _note(
        "<del>Struck out</del> is what denoising drops: the encoder reads the rest, and the "
        "decoder writes all of it. <ins>Green</ins> is what the decoder continues with in CLM, "
        "where the encoder reads what stands before."
    )
    spelling = _Spelling(inspection.vocabulary)
    tasks = []
    for index, task in enumerate(inspection.spec.tasks):
        shown = "".join(_example(segment, spelling) for segment in inspection.examples[task.name])
        share = inspection.statistics["tasks"][task.name]["expected"]
        title = f"{escape(task.name)} <span class='dim'>{share:.2%}</span>"
        tasks.append(_details(title, shown, index < _OPEN_TASKS))
    return note + "".join(tasks)


def _example(segment: Segment, spelling: _Spelling) -> str:
    size = f"encoder {len(segment.encoder_tokens)} tokens, decoder {len(segment.targets)}"
    whole = "".join(f'<p dir="auto">{part}</p>' for part in _paragraphs(segment, spelling))
    return f'<div class="example"><div class="size">{size}</div>{whole}</div>'


def _paragraphs(segment: Segment, spelling: _Spelling) -> Iterator[str]:
    """Marks up a segment, a paragraph a document, so that each has its own direction."""
    ahead, mark = np.zeros(0, np.int32), "del"
    if segment.objective == "clm":
        ahead, mark = segment.encoder_tokens, "ins"
    tokens = np.concatenate([ahead, segment.targets])
    marked = np.concatenate([np.zeros(len(ahead), bool), segment.dropped])
    ends = np.flatnonzero(tokens == spelling.separator) + 1
    for part, part_marked in zip(np.split(tokens, ends), np.split(marked, ends), strict=True):
        yield "".join(_runs(part, part_marked, mark, spelling))


def _runs(tokens: np.ndarray, marked: np.ndarray, mark: str, spelling: _Spelling) -> Iterator[str]:
    starts = np.flatnonzero(np.diff(marked)) + 1
    for run, (is_marked, *_) in zip(
        np.split(tokens, starts), np.split(marked, starts), strict=True
    ):
        spelt = spelling.markup(run)
        yield f"<{mark}>{spelt}</{mark}>" if is_marked else spelt


class _Spelling:
    """Spells tokens as HTML; characters of which a run holds only some bytes become �."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._bytes = vocabulary.piece_bytes(first=False)
        self.separator = vocabulary.special.doc
        self._special = {
            getattr(vocabulary.special, field): piece for field, piece in SPECIAL_PIECES.items()
        }

    def markup(self, tokens: np.ndarray) -> str:
        parts, run = [], b""
        for token in tokens.tolist():
            if token in self._special:
                parts += [self._escaped(run), self._badge(token)]
                run = b""
            else:
                run += self._bytes[token]
        return "".join([*parts, self._escaped(run)])

    def _badge(self, token: int) -> str:
        # Isolated, so that its Latin letters do not decide the direction of the text.
        return f'<bdi class="special">{escape(self._special[token])}</bdi>'

    def _escaped(self, run: bytes) -> str:
        return escape(run.decode(errors="replace"))


def _details(title: str, content: str, is_open: bool) -> str:
    return f"<details{' open' * is_open}><summary>{title}</summary>{content}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{names}</tr>{body}</table></div>'


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Sets rows in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
