"""A second reader of packed files, in plain Python and from docs/packed-files.md alone: slow, and the judge.

tensors(path) -> {name: the bytes of the dense tensor}
"""

import json
import math
import struct
import zlib

DTYPES = [
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64", "C32", "C128"),
]
BITS = {"BOOL": 8, "F4": 4, "BF16": 16, "C32": 32, "C64": 64, "C128": 128}
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3"}
FORMATS = {"F64": "d", "F32": "f", "F16": "e"}
CHANCE = [min(65535, max(1, round(65536 / (1 + math.exp(-x / 256))))) for x in range(-3072, 3073)]
LOGIT = [round(256 * math.log((i + 0.5) / (4095.5 - i))) for i in range(4096)]


class Bytes:
    """Bytes that are read from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self):
        return self.take(1)[0]

    def uint32(self):
        return struct.unpack("<I", self.take(4))[0]

    def number(self):
        byte = self.byte()
        return byte if byte < 128 else byte - 128 + 128 * self.number()

    def text(self):
        return self.take(self.number()).decode()

    def texts(self):
        return [self.text() for _ in range(self.number())]

    def plane(self, n):
        coder = self.byte()
        if coder == 0:
            return self.take(n)
        coded = self.take(self.number())
        return (rans if coder == 1 else byte_model)(coded, n)

    def numbers(self, n, n_bytes):
        """Numbers in planes, the highest byte first."""
        planes = [self.plane(n) for _ in range(n_bytes)]
        return [int.from_bytes(each, "big") for each in zip(*planes, strict=True)]


def bits(data, n):
    """The first n bits, the lowest of each byte first."""
    return [data[i // 8] >> i % 8 & 1 for i in range(n)]


def rans(coded, n):
    found = Bytes(coded)
    p, occurs = found.byte(), bits(found.take(32), 256)
    slots = []
    for value in range(256):
        if occurs[value]:
            frequency = struct.unpack("<H", found.take(2))[0]
            slots += [(value, frequency, offset) for offset in range(frequency)]
    assert len(slots) == 2**p
    states = [int.from_bytes(found.take(6), "little") for _ in range(4)]
    plane = bytearray()
    for i in range(n):
        x = states[i % 4]
        value, frequency, offset = slots[x % 2**p]
        x = frequency * (x >> p) + offset
        if x < 2**32:
            x = x << 16 | struct.unpack("<H", found.take(2))[0]
        states[i % 4] = x
        plane.append(value)
    assert states == [2**32] * 4
    assert found.at == len(coded)
    return bytes(plane)


class Coder:
    """The range coder."""

    def __init__(self, coded):
        self.coded, self.at = coded, 4
        self.low, self.high = 0, 2**32 - 1
        self.x = int.from_bytes(coded[:4].ljust(4, b"\0"), "big")

    def bit(self, chance):
        middle = self.low + ((self.high - self.low) * chance >> 16)
        bit = int(self.x <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            following = self.coded[self.at] if self.at < len(self.coded) else 0
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 & 0xFFFFFFFF) + 255
            self.x, self.at = (self.x << 8 & 0xFFFFFFFF) + following, self.at + 1
        return bit


class Chance:
    """A chance that learns."""

    def __init__(self, most, value=32768, count=0):
        self.value, self.count, self.most = value, count, most

    def learn(self, bit):
        self.value += (65535 * bit - self.value) * (655360 // (10 * self.count + 16)) >> 16
        self.count = min(self.count + 1, self.most)


def byte_model(coded, n):
    coder, chances, plane = Coder(coded), [Chance(1000) for _ in range(256)], bytearray()
    for _ in range(n):
        node = 1
        for _ in range(8):
            bit = coder.bit(min(max(chances[node].value, 16), 65520))
            chances[node].learn(bit)
            node = 2 * node + bit
        plane.append(node - 256)
    return bytes(plane)


def mask_model(coded, rows, columns):
    coder, keep = Coder(coded), []
    whole, column = Chance(1000), [Chance(500, count=4) for _ in range(columns)]
    beside, around = [Chance(500) for _ in range(128)], [Chance(500) for _ in range(512)]
    weights = [[-19661, 39322, 39322, 6554, 6554, 0] for _ in range(8)]

    def steps(v, n):
        return min(max((v + 2304) * n // 4608, 0), n - 1)

    def bit_at(r, c):
        return keep[r * columns + c] if 0 <= c < columns and r >= 0 else 0

    for r in range(rows):
        row, mixed = Chance(500, whole.value, 8), weights[min(r, 7)]
        for c in range(columns):
            if r == 0:
                column[c].value = near = whole.value
            elif columns == 1:
                near = column[c].value
            elif c in (0, columns - 1):
                near = column[1 if c == 0 else c - 1].value
            else:
                near = column[c - 1].value + column[c + 1].value >> 1
            before = 2 * bit_at(r, c - 2) + bit_at(r, c - 1)
            above = bit_at(r - 1, c - 1) + 2 * bit_at(r - 1, c) + 4 * bit_at(r - 1, c + 1)
            by_column = beside[steps(LOGIT[near >> 4], 32) * 4 + before]
            by_row = around[steps(LOGIT[row.value >> 4], 16) * 32 + above * 4 + before]
            learning = (whole, row, column[c], by_column, by_row)
            inputs = [LOGIT[value >> 4] for value in (*(each.value for each in learning), near)]
            total = sum(w * i for w, i in zip(mixed, inputs, strict=True)) >> 16
            chance = CHANCE[min(max(total, -3072), 3072) + 3072]
            bit = coder.bit(chance)
            keep.append(bit)
            error = (65536 * bit - chance) * 6
            mixed[:] = [w + (i * error + 524288 >> 20) for w, i in zip(mixed, inputs, strict=True)]
            for each in learning:
                each.learn(bit)
    return keep


def positions(found, kind, rows, columns):
    """The places of the stored weights, in their order."""
    n = rows * columns
    if kind == 0:
        return list(range(n))
    if kind == 1:
        keep = bits(found.plane(-(-n // 8)), n)
    elif kind == 2:
        places, at = [], -1
        for gap in found.numbers(found.number(), 2):
            at += gap or 65535
            places += [at] if gap else []
        return places
    elif kind == 3:
        kept, m, k = found.byte(), found.byte(), found.number()
        choices = [p for p in range(2**m) if p.bit_count() == kept]
        ranks = found.numbers(n // m, 2 if len(choices) > 256 else 1)
        keep = [0] * n
        for i, rank in enumerate(ranks):
            start = i // k * m * k + i % k
            for j in range(m):
                keep[start + j * k] = choices[rank] >> j & 1
    elif kind == 4:
        h, w = found.number(), found.number()
        down, across = -(-rows // h), -(-columns // w)
        filled = bits(found.plane(-(-down * across // 8)), down * across)
        return [
            r * columns + c
            for i, is_filled in enumerate(filled)
            if is_filled
            for r in range(i // across * h, min(rows, i // across * h + h))
            for c in range(i % across * w, min(columns, i % across * w + w))
        ]
    elif kind == 5:
        live = [[i for i, bit in enumerate(bits(found.plane(-(-size // 8)), size)) if bit] for size in (rows, columns)]
        places = [r * columns + c for r in live[0] for c in live[1]]
        return [places[at] for at in positions(found, found.byte(), *map(len, live))]
    else:
        keep = mask_model(found.take(found.number()), rows, columns)
    return [i for i, bit in enumerate(keep) if bit]


def bfloat16(pattern):
    return struct.unpack("<f", struct.pack("<I", pattern << 16))[0]


def as_dtype(value, dtype):
    """The bits of a number, rounded to nearest even."""
    if dtype == "BF16":
        (pattern,) = struct.unpack("<I", struct.pack("<f", value))
        return pattern + 0x7FFF + (pattern >> 16 & 1) >> 16
    return int.from_bytes(struct.pack("<" + FORMATS[dtype], value), "little")


def piece(data, rows, columns, dtype, n_bits, values, codebook):
    """The bits of all weights of a piece."""
    found, n = Bytes(data), rows * columns
    first = found.byte()
    places = positions(found, first & 0x7F, rows, columns)
    weights = [0] * n
    if first & 0x80:
        stored = set(places)
        others = [i for i in range(n) if i not in stored]
        for i, bit in zip(others, bits(found.plane(-(-len(others) // 8)), len(others)), strict=True):
            weights[i] = bit << n_bits - 1
    if values[0] == 1:
        group = values[2] or columns
        per_row = -(-columns // group)
        scales = [bfloat16(pattern) for pattern in found.numbers(rows * per_row, 2)]
        for i, code in zip(places, found.plane(len(places)), strict=True):
            signed = code - 256 if code > 127 else code
            scale = scales[i // columns * per_row + i % columns // group]
            weights[i] = as_dtype(signed * scale, dtype) if signed else 0
    elif values[0] == 2:
        for i, code in zip(places, found.plane(len(places)), strict=True):
            weights[i] = codebook[code]
    else:
        for i, turned in zip(places, found.numbers(len(places), n_bits // 8), strict=True):
            weights[i] = (turned >> 1 | (turned & 1) << n_bits - 1) if dtype in FLOATS else turned
    assert found.at == len(data)
    return b"".join(weight.to_bytes(n_bits // 8, "little") for weight in weights)


def tensors(path):
    data = path.read_bytes()
    assert struct.unpack("<Q", data[:8]) == (312,)
    header = json.loads(data[8:320])
    assert header["__metadata__"]["format"] == "secateurs.packed/1"
    start, end = (320 + offset for offset in header["secateurs.packed.index"]["data_offsets"])
    index = Bytes(data[start:end])
    assert index.uint32() == zlib.crc32(data[:320])
    assert index.uint32() == zlib.crc32(data[start + 8 : end])
    assert index.texts() == []
    for _ in range(2 * index.number()):
        index.text()
    total, name, at, dense = index.number(), b"", 320, {}
    for _ in range(index.number()):
        name = name[: index.number()] + index.take(index.number())
        index.texts()
        dtype = DTYPES[index.byte()]
        shape = [index.number() for _ in range(index.number())]
        kind = index.byte()
        values = (kind, index.byte() if kind else 0, index.number() if kind == 1 else 0)
        n_bits = BITS.get(dtype) or int(dtype.split("_")[0].strip("FUI"))
        is_whole = n_bits in (8, 16, 32, 64)
        n = math.prod(shape) if is_whole else math.prod(shape) * n_bits // 8
        n_bits = n_bits if is_whole else 8
        rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 and dtype in FLOATS else (1, n)
        if n and columns > 2**20:
            grids = [(1, min(2**20, n - i)) for i in range(0, n, 2**20)]
        else:
            step = 2**20 // columns if n else 1
            grids = [(min(step, rows - i), columns) for i in range(0, rows, step)] if n else []
        codebook, found = [], b""
        for grid in ([None] if kind == 2 else []) + grids:
            size, crc, dense_crc = index.number(), index.uint32(), index.uint32()
            part, at = data[at : at + size], at + size
            assert zlib.crc32(part) == crc
            if grid is None:
                codebook = [int.from_bytes(part[i : i + n_bits // 8], "little") for i in range(0, size, n_bits // 8)]
                continue
            weights = piece(part, *grid, dtype, n_bits, values, codebook)
            assert zlib.crc32(weights) == dense_crc
            found += weights
        dense[name.decode()] = found
    assert index.at == end - start
    assert total == sum(map(len, dense.values()))
    return dense
