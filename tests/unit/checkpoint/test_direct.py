"""Direct: the bytes arrive, whatever the sizes, and wherever the file system refuses to go past its cache."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from secateurs.checkpoint import direct
from secateurs.checkpoint.direct import BLOCK, ROOM, DirectFile

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, ROOM - 1, ROOM, ROOM + BLOCK, 2 * ROOM + 3]


def written(path: Path, pieces: list[bytes]) -> bytes:
    file = DirectFile(path)
    for piece in pieces:
        file.write(piece)
    file.finish()
    file.close()  # once more is allowed
    return path.read_bytes()


@pytest.mark.parametrize("n", SIZES)
def test_what_is_written_is_there_whatever_the_pieces(tmp_path: Path, n: int) -> None:
    data = np.random.default_rng(n).bytes(n)
    for step in (1_000_003, ROOM, n + 1):
        assert written(tmp_path / "file", [data[i : i + step] for i in range(0, n, step)]) == data


def test_a_file_system_that_does_not_know_the_flag_is_written_to_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, usual = [], os.open

    def refuses(path: Path, flag: int, mode: int = 0o777) -> int:
        flags.append(flag)
        if flag & (1 << 30):
            raise OSError(errno.EINVAL, "Invalid argument")
        return usual(path, flag, mode)

    monkeypatch.setattr(os, "O_DIRECT", 1 << 30, raising=False)
    monkeypatch.setattr(direct.os, "open", refuses)
    assert written(tmp_path / "file", [b"abc" * ROOM]) == b"abc" * ROOM
    assert len(flags) == 2


def test_a_disk_with_other_blocks_is_written_to_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_refused, usual = 0, os.write

    def refuses(handle: int, data: memoryview) -> int:
        nonlocal n_refused
        if n_refused < 1:
            n_refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return usual(handle, data)

    file = DirectFile(tmp_path / "file")
    if not file._direct:
        pytest.skip("there is no way past the cache here")
    monkeypatch.setattr(direct.os, "write", refuses)
    file.write(b"abc" * ROOM)
    file.finish()
    assert (tmp_path / "file").read_bytes() == b"abc" * ROOM
    assert n_refused == 1


def test_a_disk_that_takes_a_part_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.write
    monkeypatch.setattr(direct.os, "write", lambda handle, data: usual(handle, data[: max(1, len(data) // 3)]))
    data = np.random.default_rng(0).bytes(ROOM + 5)
    file = DirectFile(tmp_path / "file")
    file._as_usual()  # what is cut here is no whole block
    file.write(data)
    file.finish()
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_says_so_and_leaves_the_file_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(handle: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = DirectFile(tmp_path / "file")
    monkeypatch.setattr(direct.os, "write", is_full)
    with pytest.raises(OSError, match="No space left"):
        file.write(bytes(ROOM))
    file.close()
    assert (tmp_path / "file").stat().st_size == 0
