"""Measured: the tables of figures in the docs, read from the committed results in benchmarks/results/*.json.

One file a page. To add a table: a function that returns its Markdown, and its line in the page's TABLES.
"""

from measured import (
    checkpoints,
    compress,
    packed_files,
    patterns,
    results,
    running,
    running_picture,
    strategies,
    structure,
)

TABLES = {
    name: make
    for page in (results, checkpoints, compress, packed_files, patterns, strategies, structure, running)
    for name, make in page.TABLES.items()
}
IMAGES = {**strategies.IMAGES, **compress.IMAGES, **running_picture.IMAGES}
