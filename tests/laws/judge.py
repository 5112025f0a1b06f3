"""The slow judge: `select` written again with exact fractions, lists and one sort.

    judge(scores, unit, pool, n_kept=lambda n: n - round(s * n))   counting budgets
    judge(scores, unit, pool, above=tau)                           threshold

It shares no code with the package; `sc.select` must agree with it bit for bit.
"""

from fractions import Fraction

import numpy as np


class InfeasibleError(Exception):
    """The budget keeps fewer units of a layer, or of the model, than min_keep holds there."""


def units_of(shape, unit):
    """The flat indexes of the elements of every unit, units in order of their first element."""
    place = np.arange(np.prod(shape)).reshape(shape)
    if unit == "element":
        return [[index] for index in place.ravel().tolist()]
    if unit == "row":
        return [place[row].ravel().tolist() for row in range(shape[0])]
    if unit == "column":
        return [place[:, column].ravel().tolist() for column in range(shape[1])]
    high, wide = unit
    place = place.reshape(shape[0], shape[1], -1)  # (out, in, kernel positions)
    return sorted(
        place[top : top + high, left : left + wide, position].ravel().tolist()
        for top in range(0, shape[0], high)
        for left in range(0, shape[1], wide)
        for position in range(place.shape[2])
    )


def pool_of(shape, first, pool):
    """A label that is equal for units that compete, from a unit's first element."""
    if pool in ("layer", "model"):
        return None
    row, column, *position = (int(i) for i in np.unravel_index(first, shape))
    return (row,) if pool == "row" else (row, column // pool, *position)


def judge(scores, unit, pool, n_kept=None, above=None, min_keep=0):
    """{name: bool array}, True = keep, for {name: scores}."""
    worth, members, forced = {}, {}, set()
    pools = {}
    for name, array in scores.items():
        flat = [Fraction(float(value)) for value in np.asarray(array, dtype=np.float64).ravel()]
        layer = []
        for number, indexes in enumerate(units_of(array.shape, unit)):
            key = (name, number)
            worth[key] = sum((flat[index] for index in indexes), Fraction(0)) / len(indexes)
            members[key] = indexes
            label = (None if pool == "model" else name, pool_of(array.shape, indexes[0], pool))
            pools.setdefault(label, []).append(key)
            layer.append(key)
        best_first = sorted(layer, key=lambda key: (-worth[key], key))
        if pool == "model" or above is not None:
            forced |= set(best_first[:min_keep])
        elif min_keep:  # each pool keeps its own best; only their number must be enough
            own = [keys for label, keys in pools.items() if label[0] == name]
            if sum(n_kept(len(keys)) for keys in own) < min(min_keep, len(layer)):
                raise InfeasibleError

    kept = set(forced)
    for keys in pools.values():
        if above is not None:
            kept |= {key for key in keys if worth[key] > Fraction(above)}
            continue
        n_room = n_kept(len(keys)) - len(forced.intersection(keys))
        if n_room < 0:
            raise InfeasibleError
        others = sorted((key for key in keys if key not in forced), key=lambda key: (-worth[key], key))
        kept |= set(others[:n_room])

    keep = {name: np.zeros(array.shape, dtype=bool) for name, array in scores.items()}
    for name, number in kept:
        keep[name].ravel()[members[name, number]] = True
    return keep
