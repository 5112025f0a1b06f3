"""Static page: what the pages without a script share: their style, escaped text, tables.

Names come from files and are untrusted: every text is escaped, and the pages' policy allows no script at all.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from secateurs.see.report import _file, _fill
from secateurs.see.style import short

_DARK = re.compile(r'\[data-theme="dark"\] \{(.*?)\}', re.DOTALL)

Cell = str | tuple[str, str]  # text, or (text, class of the cell)


def static_page(name: str, values: Mapping[str, str]) -> str:
    """The page of this name, its {{words}} replaced by HTML."""
    # The page has no script that could set a theme: it follows the system's.
    css = _DARK.sub(r"@media (prefers-color-scheme: dark) { :root {\1} }", _file("page.css"))
    own = {"css": _fill(css, {"ramp": "none"}) + _file("static.css") + _file(f"{name}.css")}
    return _fill(_file(f"{name}.html"), {**values, **own})


def escaped(text: str) -> str:
    """Text that may stand anywhere in the page."""
    return html.escape(short(text, 400))


def breakable(text: str) -> str:
    """A name that may be broken behind its dots."""
    return escaped(text).replace(".", ".<wbr>")


def figures(pairs: Iterable[tuple[str, str, str]]) -> str:
    """(term, value, more) as the large numbers at the top."""
    return "".join(f"<div><dt>{term}</dt><dd>{value}<small>{more}</small></dd></div>" for term, value, more in pairs)


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], foot: Sequence[Cell] = ()) -> str:
    """A table whose first column is its row heads and whose other cells are numbers."""

    def line(cells: Sequence[Cell]) -> str:
        texts = [(cell, "") if isinstance(cell, str) else cell for cell in cells]
        body = "".join(f'<td class="number {kind}">{html.escape(text)}</td>' for text, kind in texts[1:])
        return f'<tr><th scope="row">{breakable(texts[0][0])}</th>{body}</tr>'

    heads = "".join(
        f'<th scope="col"{" class=number" if k else ""}>{escaped(word)}</th>' for k, word in enumerate(head)
    )
    foot_rows = f"<tfoot>{line(foot)}</tfoot>" if foot else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(map(line, rows))}</tbody>{foot_rows}</table>"


def apart(svg: str, name: str) -> str:
    """A picture whose clips have names of their own: a page has one space of names."""
    return svg.replace('id="clip', f'id="{name}-clip').replace("url(#clip", f"url(#{name}-clip")
