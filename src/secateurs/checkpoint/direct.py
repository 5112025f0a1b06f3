"""Direct: a new file whose bytes go to the disk past the system's cache, which large files only push through.

    file = DirectFile(path)
    file.write(data); ...; file.finish()        durable

Copying into the cache, and finding memory for it, costs more than all else that is done to a weight. Where the file
system knows no such way, or not for these sizes, the same calls write as usual.
"""

import errno
import mmap
import os
from pathlib import Path
from typing import Any

BLOCK = 4096  # what addresses, sizes and offsets are multiples of, wherever they have to be
ROOM = 1 << 22  # bytes that are gathered before they are written


class DirectFile:
    """A new file to append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._direct: int = getattr(os, "O_DIRECT", 0)
        try:
            self._handle = os.open(path, flags | self._direct, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            self._handle, self._direct = os.open(path, flags, 0o666), 0
        self._room = mmap.mmap(-1, ROOM)  # which begins at a page
        self._n = 0

    def write(self, data: Any) -> None:
        """Append bytes."""
        data = memoryview(data)
        while data:
            n = min(len(data), ROOM - self._n)
            self._room[self._n : self._n + n] = data[:n]
            self._n, data = self._n + n, data[n:]
            if self._n == ROOM:
                self._flush(ROOM)

    def finish(self) -> None:
        """Make what was written durable, and close."""
        self._flush(self._n // BLOCK * BLOCK)
        self._as_usual()
        self._flush(self._n)
        os.fsync(self._handle)
        self.close()

    def close(self) -> None:
        """Let go of it, durable or not; more than once is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            self._room.close()
            os.close(handle)

    def _flush(self, n: int) -> None:
        """Write the first n gathered bytes."""
        with memoryview(self._room) as room:
            start = 0
            while start < n:
                try:
                    start += os.write(self._handle, room[start:n])
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._direct:
                        raise
                    self._as_usual()
                if start % BLOCK:  # a disk that is all but full took a part
                    self._as_usual()
        self._room.move(0, n, self._n - n)
        self._n -= n

    def _as_usual(self) -> None:
        """Through the cache from here on."""
        if self._direct:
            import fcntl  # where there is O_DIRECT, there is this

            fcntl.fcntl(self._handle, fcntl.F_SETFL, fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~self._direct)
            self._direct = 0
