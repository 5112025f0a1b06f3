"""Static page: what pages without a script are put together from: templates, escaped text, tables.

Names come from files and are untrusted: every text is escaped, and the pages' policy allows no script at all.
"""

import html
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence

from secateurs.see.style import short

_DARK = re.compile(r'\[data-theme="dark"\] \{(.*?)\}', re.DOTALL)

Cell = str | tuple[str, str]  # text, or (text, class of the cell)


def page(template: str, values: Mapping[str, str]) -> str:
    """A template of the folder `page`, filled; what is given is HTML already."""
    # The page has no script that could set a theme: it follows the system's.
    css = _DARK.sub(r"@media (prefers-color-scheme: dark) { :root {\1} }", template_text("page.css"))
    whole = fill(css, {"ramp": "none"}) + template_text("survey.css")
    return fill(template_text(template), {"css": whole, **values})


def template_text(name: str) -> str:
    """A file of the folder `page`."""
    return importlib.resources.files("secateurs.see").joinpath("page", name).read_text("utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced, once: what is inserted is not read again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def text(words: str, longest: int = 400) -> str:
    """Words as HTML."""
    return html.escape(short(words, longest))


def name(words: str) -> str:
    """A name that may be broken behind its dots."""
    return text(words).replace(".", ".<wbr>")


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], foot: Sequence[Cell] = ()) -> str:
    """A table whose first column is its row heads and whose other cells are numbers."""

    def line(cells: Sequence[Cell]) -> str:
        texts = [(cell, "") if isinstance(cell, str) else cell for cell in cells]
        body = "".join(f'<td class="number {kind}">{html.escape(words)}</td>' for words, kind in texts[1:])
        return f'<tr><th scope="row">{name(texts[0][0])}</th>{body}</tr>'

    heads = "".join(f'<th scope="col"{" class=number" if k else ""}>{text(word)}</th>' for k, word in enumerate(head))
    foot_rows = f"<tfoot>{line(foot)}</tfoot>" if foot else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(map(line, rows))}</tbody>{foot_rows}</table>"


def region(label: str, inside: str) -> str:
    """What may be wider than the window."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{inside}</div>'
