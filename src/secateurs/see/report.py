"""Report: the whole run as one HTML page that needs no network, no server and no other file.

Text of the results is untrusted: it reaches the page as JSON with <, > and & escaped, or HTML-escaped, and
the page's script inserts it as text. A content security policy allows only our two scripts, by their hash.
"""

import base64
import copy
import functools
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from secateurs.checks import extra
from secateurs.errors import OutputError
from secateurs.measure.intervals import wilson
from secateurs.see import charts, pictures
from secateurs.see.static_page import fill, template_text
from secateurs.see.style import COMPONENTS, STRATEGIES

LARGEST_PAGE = 5_000_000  # bytes


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, safe to stand inside a <script> element."""
    bundle: str = extra("vl_convert", "explore").javascript_bundle()
    return _inside_script(bundle)


def _inside_script(code: str) -> str:
    """The same JavaScript, with nothing in its strings that would end or comment the element around it."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def embedded_json(value: Any) -> str:
    """JSON for a <script> element: no text inside can close the element. ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _with_intervals(results: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which every measured point of a sweep carries its 95 % interval."""
    found = copy.deepcopy(dict(results))
    for stage in found["stages"]:
        for points in stage["sweep"].values():
            for point in points:
                point["low"], point["high"] = wilson(point["accuracy"], point["n"])
    return found


def _specs(results: Mapping[str, Any]) -> dict[str, Any]:
    """The page's charts, already compiled to Vega, so that the page has nothing left to compile, and its words."""
    convert = extra("vl_convert", "explore")
    drawn = {name: convert.vegalite_to_vega(chart.to_dict()) for name, chart in charts.page_charts(results).items()}
    words = {"components": COMPONENTS, "strategies": STRATEGIES}
    return {**drawn, **words, "tradeoff_caption": charts.tradeoff_caption(results)}


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _slimmer(results: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The results with less and less to look at, and what was left out, in words; what was counted always stays."""
    yield results, ""
    films, every = results.get("films", {}), 1
    while max((len(frames) for frames in films.values()), default=0) > 2:
        every *= 2
        # The last frame is what training ended with; it always stays.
        films = {
            name: [f for k, f in enumerate(frames) if k % 2 == 0 or k == len(frames) - 1]
            for name, frames in films.items()
        }
        ordinal = f"{every}{'nd' if every == 2 else 'th'}"
        yield {**results, "films": films}, f"Every {ordinal} frame of training is shown"
    lost = ["films of training"] if any(films.values()) else []
    results = {**results, "films": {}}
    if lost:
        yield results, f"The {lost[0]} are left out"
    lost.append("pictures of weights by position")
    yield {**results, "positions": {}}, f"The {' and the '.join(lost)} are left out"


def report_page(results: Mapping[str, Any]) -> str:
    """The page of a run: self-contained, offline, at most 5 MB.

    results   the dict that `explore` writes ("secateurs.explore/1")
    Where the page would grow larger than that, films are thinned, then left out, then the pictures by
    position are; the page says so. OutputError where even that is not enough.
    """
    ramp = ", ".join(f"rgb({r} {g} {b})" for r, g, b in pictures.RAMP)
    js = _inside_script(template_text("page.js"))
    values = {
        "title": html.escape(f"{results['model']['name']} on {results['data']['name']}, pruned: secateurs"),
        "headline": html.escape(str(results["headline"])),
        "css": fill(template_text("page.css"), {"ramp": ramp}),
        "vega": _vega(),
        "js": js,
        "script_hashes": f"{_hash(_vega())} {_hash(js)}",
    }
    specs, size = _specs(results), 0
    for shown, left_out in _slimmer(_with_intervals(results)):
        note = {"left_out": f"{left_out}, so that this page stays below 5 MB."} if left_out else {}
        data = {"results": embedded_json(shown), "charts": embedded_json({**specs, **note})}
        page = fill(template_text("page.html"), {**values, **data})
        size = len(page.encode())
        if size <= LARGEST_PAGE:
            return page
    raise OutputError(
        f"The page would take {size:,} bytes without films and pictures, more than {LARGEST_PAGE:,}. "
        "Explore a network with fewer layers, or skip some."
    )
