"""Table: the formats by name.

To add one: a module here with `pack`, `unpack` and `nbytes`, and its line in FORMATS; the laws find it there.
"""

from types import ModuleType

from secateurs.formats import bitmask, blocks, index, nm, rows

FORMATS: dict[str, ModuleType] = {
    "bitmask": bitmask,
    "index": index,
    "nm": nm,
    "blocks": blocks,
    "rows": rows,
}
