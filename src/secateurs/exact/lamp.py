"""Lamp: the scores of `secateurs.scores.lamp` in descending order, computed as they are read."""

from collections.abc import Iterator

import numpy as np

from secateurs.exact.kinds import KINDS, Stored
from secateurs.exact.parts import Part, split


def lamp_part(weights: Part) -> Part:
    """The lamp scores of a layer's weights, the largest first; a sorted copy of the layer is held while they are read.

    The sums are taken one after the other from the largest weight on, as `lamp` does, so the scores are its bits.
    """
    kind = weights.kind

    def pieces() -> Iterator[Stored]:
        keys, start = np.empty(weights.n, kind.storage), 0
        for piece in weights.pieces():
            np.bitwise_and(piece, kind.storage.type(kind.mask), out=keys[start : start + piece.size])
            start += piece.size
        keys.sort()
        total = 0.0
        for piece in split(keys[::-1]):
            square = np.square(kind.values(piece))
            sums = np.add.accumulate(np.concatenate([[total], square]))[1:]
            total = float(sums[-1])
            with np.errstate(invalid="ignore"):
                score = np.nan_to_num(square / sums, nan=0.0)
            yield score.view(KINDS["F64"].storage)

    # Neighbours in order say the same, so a sample takes them one by one.
    return Part(KINDS["F64"], weights.n, pieces if weights.n else lambda: (), block=1)
