"""Style: colours, words and fonts of every chart, and how parts become one drawing.

A palette names the colours: PRINT holds hex colours, PAGE holds the page's CSS variables, so that one
drawing follows the reader's light or dark theme. No expression is ever built from text of the results.
What components and strategies are called is written here alone; charts, page and claims read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from secateurs.checks import extra

COMPONENTS = {"cls-head": "CLS head", "ffnn": "FFN"}
STRATEGIES = {
    "one-shot": "one-shot",
    "fine-tuned": "one-shot + fine-tuning",
    "in-loop": "in the training loop",
}
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # vl-convert carries the first one


@dataclass(frozen=True)
class Palette:
    """The colours of a chart by what they mean; dark, middle and light enough to differ in grey.

    second  the marks of a second series, beside those of `kept`
    """

    ink: str
    muted: str
    line: str
    paper: str
    band: str
    kept: str
    removed: str
    second: str
    zero: str
    strategies: tuple[str, str, str]
    other: str
    font: str


PRINT = Palette(
    ink="#1b2430",
    muted="#5b6675",
    line="#dde1e6",
    paper="#ffffff",
    band="#f2ede4",
    kept="#27567f",
    removed="#e3a35c",
    second="#b9721f",
    zero="#bf3f26",
    strategies=("#c9812f", "#4f86b8", "#16324f"),
    other="#2f8a6a",
    font=FONT,
)
PAGE = Palette(
    ink="var(--ink)",
    muted="var(--muted)",
    line="var(--line)",
    paper="none",
    band="var(--band)",
    kept="var(--kept)",
    removed="var(--removed)",
    second="var(--one-shot)",
    zero="var(--zero)",
    strategies=("var(--one-shot)", "var(--fine-tuned)", "var(--in-loop)"),
    other="var(--other)",
    font="-apple-system, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif",
)


@dataclass(frozen=True)
class Drawing:
    """A finished chart as a Vega-Lite specification; a notebook shows it, `save_picture` writes it.

    Its parts were drawn and checked by Altair. They stand together as plain values because Altair's own
    concatenation copies every part at every level, which takes seconds for the overview.
    """

    spec: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The Vega-Lite specification."""
        return self.spec

    def to_altair(self) -> Any:
        """The same as an Altair chart, checked against the schema once more."""
        return altair().Chart.from_dict(self.spec)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.to_altair()._repr_mimebundle_(include, exclude)


def altair() -> Any:
    return extra("altair", "explore")


def data_rows(rows: Sequence[Mapping[str, Any]], name: str | None = None) -> Any:
    """Rows as the data of a chart; as a tuple, because Altair copies every list at every step."""
    return altair().Data(values=tuple(rows), **({"name": name} if name else {}))


def part(chart: Any) -> dict[str, Any]:
    """A chart as a plain Vega-Lite part, without the top-level properties."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def stacked(direction: str, parts: Sequence[dict[str, Any]], spacing: int, title: Any = None) -> dict[str, Any]:
    """Parts under ("vconcat") or beside ("hconcat") each other."""
    return {direction: list(parts), "spacing": spacing, **({} if title is None else {"title": title})}


def dressed(spec: dict[str, Any], palette: Palette, padding: Any) -> Drawing:
    """The finished drawing, with our quiet axes in the palette's colours."""
    axis = {
        "domainColor": palette.line,
        "tickColor": palette.line,
        "gridColor": palette.line,
        "gridOpacity": 0.7,
        "labelColor": palette.muted,
        "titleColor": palette.muted,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 4,
        "tickSize": 4,
    }
    legend = {"labelColor": palette.ink, "labelFontSize": 12, "title": None, "symbolStrokeWidth": 2, "symbolSize": 70}
    title = {"color": palette.ink, "subtitleColor": palette.muted, "anchor": "start", "frame": "group"}
    config = {"font": palette.font, "axis": axis, "view": {"stroke": None}, "legend": legend, "title": title}
    whole = {"$schema": altair().SCHEMA_URL, **spec, "config": config, "background": palette.paper, "padding": padding}
    return Drawing(whole)


def percent(share: float, digits: int = 1) -> str:
    """A share in print. Never rounded to 0 or 100 when it is not: 99.97 % stays below 100.0 %.

    >>> percent(0.7126), percent(0.9999), percent(0.9999, 0), percent(1.0)
    ('71.3 %', '> 99.9 %', '> 99 %', '100.0 %')

    The page's script has the same function; a test compares them.
    """
    # Half up on the exact double, as JavaScript's toFixed rounds; Python's own format rounds ties to even.
    step = Decimal(1).scaleb(-digits)
    rounded = Decimal(float(100 * share)).quantize(step, ROUND_HALF_UP)
    if share > 0 and rounded == 0:
        return f"< {step:f} %"
    if share < 1 and rounded == 100:
        return f"> {100 - step:f} %"
    return f"{rounded:f} %"


def number(value: float) -> str:
    """Three significant digits with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def short(text: str, length: int) -> str:
    """One line of plain text, control characters out, its middle left out where it is too long."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= length else f"{clean[: length // 2]}…{clean[-(length // 2 - 1) :]}"


def sigma_text(tau_text: str | None) -> str:
    return (tau_text or "").replace("sigma", "σ")


def text_block(alt: Any, lines: Sequence[str], color: str, width: int, size: float = 11, bold: bool = False) -> Any:
    """Lines of text as a chart of their own, so that a picture carries its caption."""
    return (
        alt.Chart(data_rows([{}]))
        .mark_text(
            text=list(lines),
            align="left",
            baseline="top",
            color=color,
            fontSize=size,
            lineHeight=round(size * 1.45),
            fontWeight="bold" if bold else "normal",
        )
        .encode(x=alt.value(0), y=alt.value(0))
        .properties(width=width, height=round(size * 1.45) * len(lines))
    )
