"""Streams: what coded bytes are made of: numbers of any size, and planes of bytes coded whichever way is smallest.

number    7 bits to a byte, the lowest first; all bytes but the last have their highest bit set; at most 9 bytes
plane     uint8 coder, then for all but raw a number, the length of what follows, then that:
          0 raw       the bytes as they are
          1 rans      rans.py
          2 adaptive  adaptive.py, code_bytes
"""

from dataclasses import dataclass

import numpy as np

from secateurs.exact.kinds import Stored
from secateurs.formats import adaptive, rans

RAW, RANS, ADAPTIVE = 0, 1, 2
FEW = 1 << 16  # bytes up to which the slow coder is tried
SAMPLE = 4096
WORTH = 0.98  # the share of its bytes that a large plane must come down to, to be worth the time


class DamageError(Exception):
    """What is wrong with coded bytes; whoever knows the file says where."""


def number(value: int) -> bytes:
    """The bytes of a number >= 0.

    >>> number(5), number(300)
    (b'\\x05', b'\\xac\\x02')
    """
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


@dataclass
class Reader:
    """Reads coded bytes from the front; DamageError past the end."""

    data: Stored
    at: int = 0

    def take(self, n: int) -> Stored:
        """The next n bytes, a view."""
        if n > self.data.size - self.at:
            raise DamageError(f"{n:,} bytes are needed where {self.data.size - self.at:,} are left")
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self) -> int:
        """The next byte."""
        return int(self.take(1)[0])

    def number(self, most: int) -> int:
        """The next number; DamageError where it is more than `most`."""
        value = 0
        for place in range(9):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                break
        else:
            raise DamageError("a number does not end")
        if value > most:
            raise DamageError(f"a number is {value:,} where {most:,} is the most")
        return value

    def plane(self, n: int) -> Stored:
        """The next plane of n bytes."""
        coder = self.byte()
        if coder == RAW:
            return self.take(n)
        if coder not in (RANS, ADAPTIVE):
            raise DamageError(f"a plane has the unknown coder {coder}")
        coded = self.take(self.number(self.data.size))
        found = rans.decode(coded, n) if coder == RANS else adaptive.decode_bytes(coded, n)
        if found is None:
            raise DamageError("a plane cannot be decoded")
        return found

    def assert_end(self) -> None:
        """DamageError where anything is left."""
        if self.at != self.data.size:
            raise DamageError(f"{self.data.size - self.at:,} bytes are left over")


def plane(found: Stored, is_smallest: bool) -> bytes:
    """The coded plane.

    is_smallest  try the adaptive coder, a tenth as fast, on planes of any size
    """
    best = bytes([RAW]) + found.tobytes()
    if _is_random(found):
        return best
    if (coded := rans.encode(found, 1.0 if is_smallest else WORTH)) is not None:
        best = min(best, _framed(RANS, coded), key=len)
    if found.size <= FEW or is_smallest:
        best = min(best, _framed(ADAPTIVE, adaptive.encode_bytes(found)), key=len)
    return best


def _framed(coder: int, coded: bytes) -> bytes:
    return bytes([coder]) + number(len(coded)) + coded


def _is_random(found: Stored) -> bool:
    """Whether a sample says that no coder will help: as the low bits of weights are."""
    if found.size < 8 * SAMPLE:
        return False
    counts = np.bincount(found[:: found.size // SAMPLE][:SAMPLE], minlength=256)
    share = counts[counts > 0] / counts.sum()
    # Random bytes show 8 - 255 / (2 ln 2 n) bits of entropy in a sample of n.
    return -float((share * np.log2(share)).sum()) > 7.92
