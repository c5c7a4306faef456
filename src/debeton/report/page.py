"""HTML page of a report, one file with styles, figures and a script that sorts, filters and compares."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

from debeton.report.figures.plots import Plot

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d9dde2; --ground: #ffffff;
  --band: #f6f8fa; --accent: #0b62a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #363c44; --ground: #14171b;
  --band: #1c2127; --accent: #6cb6f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 74rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.15rem; }
p.subtitle { margin: 0.4rem 0 1.5rem; color: var(--soft); }
ul.notes { margin: 0.75rem 0; padding-left: 1.1rem; color: var(--soft); font-size: 0.9rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0.8rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { position: sticky; left: 0; min-width: 10.5rem; background: var(--ground); }
th:first-child, tr:hover td:first-child { background: var(--band); }
tbody tr:last-child td { border-bottom: 0; } tbody tr:hover { background: var(--band); }
th { background: var(--band); font-weight: 600; vertical-align: bottom; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.number { text-align: right; } td.number { white-space: nowrap; }
td.strong { font-weight: 650; } td a { white-space: nowrap; margin-right: 0.5rem; }
figure { margin: 1.25rem 0; } figcaption { margin-top: 0.4rem; color: var(--soft); font-size: 0.87rem; }
figure img { display: block; max-width: 100%; height: auto; padding: 0.75rem; background: #ffffff;
  border: 1px solid var(--line); border-radius: 8px; }
.tools { display: flex; gap: 0.75rem; align-items: center; margin: 0 0 0.5rem; color: var(--soft); font-size: 0.87rem; }
.tools input, .tools select { font: inherit; color: var(--ink); background: var(--ground); padding: 0.25rem 0.55rem;
  border: 1px solid var(--line); border-radius: 6px; max-width: 22rem; }
summary { cursor: pointer; margin-bottom: 0.6rem; color: var(--accent); }
@media print { .scroll { overflow: visible; } .tools { display: none; } body { max-width: none; padding: 0; } }
"""

# Missing values come last in both directions. Numbers in names are sorted by value: 0.05 before 0.1, 9 before 10.
SCRIPT = """
const pieces = text => text.split(/(\\d+(?:\\.\\d+)?)/);
const compared = (left, right) => {
  const [a, b] = [pieces(left), pieces(right)];
  for (let k = 0; k < Math.min(a.length, b.length); k++) {
    const order = k % 2 ? a[k] - b[k] : a[k].localeCompare(b[k]);
    if (order) return order;
  }
  return a.length - b.length;
};
for (const head of document.querySelectorAll("th:has(button)")) head.querySelector("button").onclick = () => {
  const at = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[at].dataset.key ?? row.cells[at].textContent;
  const isNumber = head.classList.contains("number");
  [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return (isNumber ? x - y : compared(x, y)) * (down ? -1 : 1);
  }).forEach(row => body.append(row));
};
// A row is shown if it contains every word of the filter; a text in quotation marks is one word.
for (const input of document.querySelectorAll("input[type=search]")) input.oninput = () => {
  const words = (input.value.toLowerCase().match(/"[^"]+"|[^\\s"]+/g) ?? []).map(word => word.replaceAll('"', ""));
  const rows = [...input.closest(".filtered").querySelector("table").tBodies[0].rows];
  for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  const shown = rows.filter(row => !row.hidden).length;
  input.nextElementSibling.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
};
for (const box of document.querySelectorAll(".comparison")) {
  const {keys, runs} = JSON.parse(box.querySelector("script").textContent);
  const body = box.querySelector("table").tBodies[0], selects = [...box.querySelectorAll("select")];
  const heads = box.querySelectorAll("th"), show = () => {
    const [left, right] = selects.map(select => runs[select.value]);
    [heads[1].textContent, heads[2].textContent] = [left.name, right.name];
    body.replaceChildren(...keys.flatMap((key, k) => left.values[k] === right.values[k] ? [] : [[key, k]])
      .map(([key, k]) => { const row = document.createElement("tr");
        for (const text of [key, left.values[k], right.values[k]]) row.insertCell().textContent = text;
        return row; }));
    if (!body.rows.length) body.insertRow().insertCell().textContent = "the same configuration";
  };
  for (const select of selects) select.onchange = show;
  show();
}
"""


FILTERED_FROM = 6  # smallest number of rows for which a table has a filter
FILTER = '<input type="search" placeholder="filter rows" aria-label="filter rows"><span role="status"></span>'


@dataclass(frozen=True)
class Cell:
    """Cell of a table.

    text: text, or HTML if `html` is true.
    key: sort key of a numeric cell; (None,) for an undefined number; None for a cell of text.
    html: `text` is HTML already.
    strong: show in bold.
    """

    text: str
    key: tuple[object] | None = None
    html: bool = False
    strong: bool = False

    def render(self) -> str:
        """Return the cell as HTML."""
        names = " ".join(n for n, on in (("number", self.key is not None), ("strong", self.strong)) if on)
        key = "" if self.key is None else f' data-key="{escape("" if self.key[0] is None else str(self.key[0]))}"'
        css = f' class="{names}"' if names else ""
        return f"<td{css}{key}>{self.text if self.html else escape(self.text)}</td>"


@dataclass
class Page:
    """HTML document with a title, a subtitle, and sections in order."""

    title: str
    subtitle: str
    sections: list[str] = field(default_factory=list)

    def add(self, heading: str, body: str) -> None:
        """Add a section. heading: plain text, '' for none. body: HTML."""
        self.sections.append((f"<h2>{escape(heading)}</h2>\n" if heading else "") + body)

    def render(self) -> str:
        """Return the whole document as HTML."""
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(self.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>",
                f'<h1>{escape(self.title)}</h1>\n<p class="subtitle">{escape(self.subtitle)}</p>',
                *self.sections,
                f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
            ]
        )


def html_table(headers: Iterable[str], rows: Sequence[Sequence[Cell]], folded: str = "") -> str:
    """Return a table as HTML; a click on a header sorts it.

    headers: titles of the columns.
    rows: cells, row by row; at least one row.
    folded: title of a closed fold around the table; '': no fold.
    """
    numeric = [cell.key is not None for cell in rows[0]]
    head = "".join(
        f'<th scope="col"{" class=number" * is_number}><button type="button">{escape(name)}</button></th>'
        for name, is_number in zip(headers, numeric, strict=True)
    )
    body = "\n".join("<tr>" + "".join(cell.render() for cell in row) + "</tr>" for row in rows)
    table = f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    if len(rows) >= FILTERED_FROM:
        table = f'<div class="filtered"><p class="tools">{FILTER}</p>\n{table}</div>'
    return f"<details>\n<summary>{escape(folded)}</summary>\n{table}\n</details>" if folded else table


def html_comparison(keys: Sequence[str], runs: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a comparison of two runs as HTML: the reader chooses them, and sees the keys whose values differ.

    keys: names of the settings.
    runs: (name, values in the order of `keys`) of every run.
    """
    content = {"keys": list(keys), "runs": [{"name": name, "values": list(values)} for name, values in runs]}
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")  # so that no text can end the script
    choices = "".join(f'<option value="{k}">{escape(name)}</option>' for k, (name, _) in enumerate(runs))
    second = choices.replace('value="1"', 'value="1" selected', 1)
    selects = f'<select aria-label="one run">{choices}</select> and <select aria-label="other run">{second}</select>'
    return (
        f'<div class="comparison"><p class="tools">{selects}</p>\n<script type="application/json">{data}</script>\n'
        '<div class="scroll"><table><thead><tr><th scope="col">key</th><th scope="col"></th><th scope="col"></th></tr>'
        "</thead><tbody></tbody></table></div></div>"
    )


def html_plot(plot: Plot) -> str:
    """Return a figure as HTML, with its PNG inside the page."""
    data = base64.b64encode(plot.png).decode()
    alt = escape(plot.caption, quote=True)
    image = f'<img id="{plot.name}" alt="{alt}" width="{plot.width}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(plot.caption)}</figcaption></figure>"


def html_list(lines: Iterable[str]) -> str:
    """Return a list of notes as HTML."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def link(target: Path, text: str) -> str:
    """Return a relative link as HTML, with forward slashes on every platform."""
    return f'<a href="{quote(target.as_posix())}">{escape(text)}</a>'
