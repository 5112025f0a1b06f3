"""Block picture: the weights of one block before and after shrinking, to scale, as SVG.

    block_picture(lines, prefix) -> SVG

Each weight is a rectangle, outputs downwards and inputs to the right (kernels left out); its shapes are given as (out,
in, *kernel). What is left is dark; what is gone is light. The units themselves lie anywhere, the picture puts what is
left at the top left.
"""

from collections.abc import Sequence
from html import escape
from typing import Protocol

from secateurs.errors import RecipeError
from secateurs.see.style import PRINT, Palette

LARGEST, GAP, TEXT = 150.0, 28.0, 11.0  # pixels


class Line(Protocol):
    """What became of one weight."""

    @property
    def name(self) -> str: ...
    @property
    def before(self) -> tuple[int, ...]: ...
    @property
    def after(self) -> tuple[int, ...]: ...


def block_picture(lines: Sequence[Line], prefix: str = "", palette: Palette = PRINT) -> str:
    """The weights whose names begin with `prefix`; RecipeError where there is none."""
    lines = [line for line in lines if len(line.before) > 1]
    assert_shown([line.name for line in lines], prefix)
    shown = [line for line in lines if line.name.startswith(prefix)]
    scale = LARGEST / max(size for line in shown for size in line.before[:2])
    parts, x = [], GAP
    for line in shown:
        (out, inputs), (n_out, n_in) = line.before[:2], line.after[:2]
        parts.append(_box(x, inputs * scale, out * scale, palette.removed))
        parts.append(_box(x, n_in * scale, n_out * scale, palette.kept))
        sizes = f"{out} × {inputs}" + (f" → {n_out} × {n_in}" if line.before != line.after else ", as it was")
        words = [line.name.removeprefix(prefix).strip(".").removesuffix(".weight"), sizes]
        for i, text in enumerate(words):
            y, colour = GAP + LARGEST + (i + 1.5) * TEXT * 1.3, palette.ink if i == 0 else palette.muted
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>')
        x += max(inputs * scale, 0.58 * TEXT * max(map(len, words))) + GAP
    height = GAP + LARGEST + 5 * TEXT
    title = escape(f"{prefix}{': ' if prefix else ''}outputs down, inputs across; orange is gone")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x:.1f} {height:.1f}" width="{x:.0f}" '
        f'height="{height:.0f}" font-family="{escape(palette.font)}" font-size="{TEXT}">\n'
        f'<rect width="100%" height="100%" fill="{palette.paper}"/>\n'
        f'<text x="{GAP}" y="{GAP - 2 * TEXT / 3:.1f}" fill="{palette.muted}">{title}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def assert_shown(names: Sequence[str], prefix: str) -> None:
    """RecipeError where none of these weights would be in the picture."""
    if not any(name.startswith(prefix) for name in names):
        raise RecipeError(f"No weight's name begins with {prefix!r}; there are {', '.join(names)}.")


def _box(x: float, width: float, height: float, colour: str) -> str:
    if not width or not height:
        return ""
    return f'<rect x="{x:.1f}" y="{GAP}" width="{max(width, 1):.1f}" height="{max(height, 1):.1f}" fill="{colour}"/>'
