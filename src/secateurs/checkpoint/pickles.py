"""Pickles read without running them: containers become containers, every call becomes a Call that nobody makes.

    read_pickle(window) -> dict, list, tuple, str, bytes, number, bool or None; Named, Call or Persistent

Nothing is imported and nothing constructed, so the worst that a pickle can do here is be refused. Its text is split
by the standard library's `pickletools`; what a value costs is a small multiple of the bytes that say it.
"""

import pickletools
from dataclasses import dataclass
from typing import Any, Protocol

MAX_STEPS = 10_000_000
MAX_BYTES = 64_000_000
FREE_COPIES = 1 << 16  # letters and pairs that a pickle of any size may use more than once


class PickleError(ValueError):
    """What is wrong with a pickle."""


@dataclass(frozen=True, eq=False)
class Named:
    """A class or function that a pickle names."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What a pickle would have made by calling something."""

    function: str
    arguments: Any


@dataclass(frozen=True, eq=False)
class Persistent:
    """What a pickle says lies outside of it: torch's storages."""

    about: Any


class Bytes(Protocol):
    """Bytes that can be searched: bytes, or a map of a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...
    def find(self, what: bytes, start: int, end: int, /) -> int: ...


@dataclass
class Window:
    """A file to read pickles from, that gives no more than a pickle may have."""

    data: Bytes
    at: int
    end: int

    def read(self, n: int) -> bytes:
        """The next n bytes, or as many as there are."""
        if not 0 <= n <= MAX_BYTES:
            raise PickleError(f"a part of {n:,} bytes is too large")
        found = self.data[self.at : min(self.at + n, self.end)]
        self.at += len(found)
        return found

    def readline(self) -> bytes:
        """What is left of the line."""
        found = self.data.find(b"\n", self.at, min(self.at + MAX_BYTES, self.end))
        return self.read(found + 1 - self.at if found >= 0 else 0)

    def tell(self) -> int:
        """Where the next byte is."""
        return self.at


_MARK = object()
_AS_SAID = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_AS_SAID |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_AS_SAID |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SCALARS = (str, bytes, int, float, bool, type(None))


def read_pickle(window: Window) -> Any:
    """What the next pickle says; the window then stands behind it. PickleError for anything that is none."""
    try:
        return _Machine().run(window)
    except PickleError:
        raise
    # What pickletools and Python's containers say to bytes that make no sense.
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise PickleError(f"it is not a pickle ({error})") from error


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.n_copied = 0
        self.most_copied = FREE_COPIES

    def run(self, window: Window) -> Any:
        """Every step until STOP."""
        self.most_copied += min(window.end - window.at, MAX_BYTES)
        for n, (step, argument, _) in enumerate(pickletools.genops(window)):  # type: ignore[arg-type]
            if n >= MAX_STEPS:
                raise PickleError(f"it has more than {MAX_STEPS:,} steps")
            self.do(step.name, argument)
        return self.pop()

    def do(self, step: str, argument: Any) -> None:
        """One step, by pickletools' name of it."""
        if step in _AS_SAID:
            self.stack.append(argument)
        elif step in _CONSTANTS:
            self.stack.append(_CONSTANTS[step])
        elif step in _EMPTY:
            self.stack.append(_EMPTY[step]())
        elif step in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[step])])))
        elif step == "MARK":
            self.stack.append(_MARK)
        elif step in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memory[argument] = self.top()
        elif step == "MEMOIZE":
            self.memory[len(self.memory)] = self.top()
        elif step in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memory[argument])
        elif step in ("SETITEM", "SETITEMS"):
            pairs = self.since_mark() if step == "SETITEMS" else [self.pop(), self.pop()][::-1]
            self.put(self.top(), pairs)
        elif step in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [self.pop()] if step == "APPEND" else self.since_mark()
            if isinstance(self.top(), list):
                self.top().extend(values)
        elif step == "TUPLE":
            self.stack.append(tuple(self.since_mark()))
        elif step in ("LIST", "FROZENSET"):
            self.stack.append(self.since_mark())
        elif step == "DICT":
            found: dict[Any, Any] = {}
            self.put(found, self.since_mark())
            self.stack.append(found)
        elif step == "GLOBAL":
            self.stack.append(Named(argument.replace(" ", ".", 1)))
        elif step == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self.count_copied(len(module) + len(name))
            self.stack.append(Named(f"{module:s}.{name:s}"))
        elif step in ("PERSID", "BINPERSID"):
            self.stack.append(Persistent(argument if step == "PERSID" else self.pop()))
        elif step == "BUILD":
            self.pop()  # the state of an object that is not made
        else:
            self.call(step, argument)

    def call(self, step: str, argument: Any) -> None:
        """The steps that would call something, and the few that are left."""
        if step in ("REDUCE", "NEWOBJ"):
            arguments, function = self.pop(), self.pop()
        elif step == "NEWOBJ_EX":
            _, arguments, function = self.pop(), self.pop(), self.pop()
        elif step == "OBJ":
            function, *arguments = self.since_mark()
        elif step == "INST":
            function, arguments = Named(argument.replace(" ", ".", 1)), self.since_mark()
        elif step in ("POP", "POP_MARK", "DUP"):
            if step == "DUP":
                self.stack.append(self.top())
            elif step == "POP":
                self.stack.pop()
            else:
                self.since_mark()
            return
        elif step in ("PROTO", "FRAME", "STOP"):
            return
        else:
            raise PickleError(f"it has the step {step}, which no file of weights needs")
        name = function.name if isinstance(function, Named) else type(function).__name__
        if name == "collections.OrderedDict":
            made: dict[Any, Any] = {}
            pairs = arguments[0] if arguments else ()
            self.count_copied(len(pairs))
            for key, value in pairs:
                self.put(made, [key, value])
            self.stack.append(made)
        else:
            self.stack.append(Call(name, arguments))

    def put(self, target: Any, pairs: list[Any]) -> None:
        """Keys and values in turn, into a dict; what an object that is not made would have held is dropped."""
        if len(pairs) % 2:
            raise PickleError("a dict has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                # Hashing a tuple nested a million times deep would end the process.
                target[key if isinstance(key, _SCALARS) else f"({type(key).__name__} {len(target)})"] = value

    def count_copied(self, n: int) -> None:
        """What is copied out of the memory costs no bytes of the pickle; PickleError where it is more than these."""
        self.n_copied += n
        if self.n_copied > self.most_copied:
            raise PickleError("it says the same again and again")

    def top(self) -> Any:
        """The last value."""
        if self.stack[-1] is _MARK:
            raise PickleError("a value is missing")
        return self.stack[-1]

    def pop(self) -> Any:
        """The last value, taken off."""
        self.top()
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """The values behind the last mark, taken off with it."""
        found = []
        while self.stack[-1] is not _MARK:
            found.append(self.stack.pop())
        self.stack.pop()
        return found[::-1]
