"""The page: its frame, its style, and its building blocks, in which whatever comes from data is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de; --raised: #f6f8fa;
  --alarm: #9a3412; --alarmed: #fff7ed; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --quiet: #9da7b3; --line: #3a424c;
  --raised: #161b22; --alarm: #fdba74; --alarmed: #2a1a0e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
header p, figcaption, .quiet { color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
a { color: inherit; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
dl div { padding: .75rem; background: var(--raised); border: 1px solid var(--line); border-radius: .5rem; }
dt { color: var(--quiet); font-size: .9rem; }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.warning { margin: .75rem 0; padding: .5rem .75rem; max-width: 46rem; background: var(--alarmed);
  border-left: .3rem solid var(--alarm); }
.warning h3 { margin: 0; color: var(--alarm); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; max-width: 44rem; overflow: visible; }
svg text { font-family: system-ui, sans-serif !important; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(4rem, 1fr)); gap: .5rem; padding: 0;
  list-style: none; margin: .5rem 0; }
.samples li { min-width: 0; break-inside: avoid; }
.looks { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; }
.looks .row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .25rem; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; background: #000; }
img + img { margin-top: .15rem; }
.row img + img { margin: 0; }
.scroll { overflow-x: auto; }
.scroll caption span { display: block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 2rem)); }
.terms { max-width: 46rem; padding-left: 1.2rem; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 24rem); }
caption { text-align: left; color: var(--quiet); padding: .25rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody th { font-weight: 600; }
.explained { max-width: 46rem; width: 100%; }
.explained td.number { white-space: normal; }
.explained th span { display: block; font-weight: 400; color: var(--quiet); }
caption { break-after: avoid; }
@page { margin: 15mm; }
@media print {
  :root { color-scheme: light; --ground: #fff; --ink: #000; --quiet: #444; --line: #bbb; --raised: #fff;
    --alarm: #000; --alarmed: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  tr, dl div, .warning, .scroll { break-inside: avoid; }
  .scroll { overflow: visible; }
  img { print-color-adjust: exact; }
}
"""
#: Nothing is loaded and nothing runs, whatever may have found its way into the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, under: Iterable[str], sections: Sequence[tuple[str, str, str]], first: str) -> str:
    """The whole page.

    Args:
        title: its heading.
        under: lines below the heading, escaped here as the title is.
        sections: id, heading and HTML of each.
        first: HTML above them.
    """
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{escape(heading)}</h2>{html}'
        "</section>\n"
        for name, heading, html in sections
    )
    lines = "".join(f"<p>{escape(line)}</p>" for line in under)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{lines}</header>\n<main>\n{first}\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n{body}</main>\n</body>\n</html>\n'
    )


def figure(content: str, caption: str) -> str:
    """Something to look at, and below it what it shows."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def plots(figures: Iterable[str]) -> str:
    """Plots beside each other where there is room."""
    return f'<div class="plots">{"".join(figures)}</div>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """Words and what they mean."""
    items = "".join(f"<li><strong>{escape(word)}</strong>: {escape(meaning)}</li>" for word, meaning in pairs)
    return f'<ul class="terms">{items}</ul>'


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Names and values that stand out."""
    return f"<dl>{''.join(f'<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>' for n, v in values)}</dl>"


def warning(title: str, text: str) -> str:
    return f'<div class="warning" role="note"><h3>{escape(title)}</h3><p>{escape(text)}</p></div>'


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of numbers, whose first column names its rows."""
    kinds = ["", *[' class="number"'] * (len(head) - 1)]
    names = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, head, strict=True))
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    # It can be wider than a phone: then it scrolls by itself, by keys too.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{names}</tr></thead><tbody>{lines}</tbody>"
        "</table></div>"
    )


def explained(caption: str, head: tuple[str, str], rows: Iterable[tuple[str, str, str]]) -> str:
    """A table of names and values, with what each means below its name."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}<span>{escape(meaning)}</span></th>'
        f'<td class="number">{escape(value)}</td></tr>'
        for name, value, meaning in rows
    )
    return (
        f'<table class="explained"><caption>{escape(caption)}</caption><thead><tr>'
        f'<th scope="col">{escape(head[0])}</th><th scope="col" class="number">{escape(head[1])}</th>'
        f"</tr></thead><tbody>{lines}</tbody></table>"
    )


def samples(items: Iterable[str], kind: str = "") -> str:
    """Small things in a grid."""
    return f'<ul class="samples {kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
