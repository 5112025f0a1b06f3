"""Static page: what the pages without a script share: their style, escaped text, tables.

Names come from files and are untrusted: every text is escaped, and the pages' policy allows no script at all.
"""

import html
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence

from secateurs.see.style import short

_DARK = re.compile(r'\[data-theme="dark"\] \{(.*?)\}', re.DOTALL)

Cell = str | tuple[str, str]  # text, or (text, class of the cell)


def static_page(name: str, verb: str, sections: Mapping[str, str], values: Mapping[str, str]) -> str:
    """The page of this name, behind the head and the bar that all share; its {{words}} replaced by HTML.

    verb      the command that wrote it
    sections  {id: word} of what the bar leads to
    """
    # The page has no script that could set a theme: it follows the system's.
    css = _DARK.sub(r"@media (prefers-color-scheme: dark) { :root {\1} }", template_text("page.css"))
    first, word = next(iter(sections.items()))
    bar = {
        "verb": verb,
        "first": first,
        "first_word": word.lower(),
        "links": "".join(f'<a href="#{place}">{word}</a>' for place, word in sections.items()),
        "css": fill(css, {"ramp": "none"}) + template_text("static.css") + template_text(f"{name}.css"),
    }
    return fill(template_text("static_head.html") + template_text(f"{name}.html"), {**values, **bar})


def template_text(name: str) -> str:
    """A file of the folder `page`."""
    return importlib.resources.files("secateurs.see").joinpath("page", name).read_text("utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced, once: what is inserted is not read again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def escaped(text: str, longest: int = 400) -> str:
    """Text that may stand anywhere in the page."""
    return html.escape(short(text, longest))


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


def region(label: str, inside: str) -> str:
    """What may be wider than the window."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(label)}">{inside}</div>'


def apart(svg: str, name: str) -> str:
    """A picture whose clips have names of their own: a page has one space of names."""
    return svg.replace('id="clip', f'id="{name}-clip').replace("url(#clip", f"url(#{name}-clip")
