"""Pages: README.md and docs/*.md, and the code blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [*([README] if README.exists() else []), *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind the fence, its text, and the line of the page on which the text begins."""

    info: str
    text: str
    line: int


def name_of(page: Path) -> str:
    """docs/words.md"""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(found[1].strip(), found[2], text.count("\n", 0, found.start(2)) + 1) for found in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks and without inline code."""
    return re.sub(r"`[^`\n]*`", "`code`", _BLOCK.sub("", page.read_text("utf-8")))
