"""Measured: the tables of figures in the docs, read from the committed results in benchmarks/results/*.json.

One file a page. To add a table: a function that returns its Markdown, and its line in the page's TABLES.
"""

from measured import checkpoints, packed_files, patterns, results, strategies

TABLES = {
    name: make
    for page in (results, checkpoints, packed_files, patterns, strategies)
    for name, make in page.TABLES.items()
}
IMAGES = strategies.IMAGES
