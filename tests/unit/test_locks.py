"""Locks: held by one; what cannot be locked at all is not told as another run."""

import errno
import os
from pathlib import Path

import pytest

from secateurs import locks
from secateurs.errors import LockedError, OutputError


def test_a_held_lock_names_another_run_and_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            locks.held(tmp_path / "lock"),
            pytest.raises(LockedError, match="Another run is writing"),
            locks.held(tmp_path / "lock"),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_told_as_that(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with (
        pytest.raises(OutputError, match=f"Cannot lock .*lock: {os.strerror(number)}") as caught,
        locks.held(tmp_path / "lock"),
    ):
        pass
    assert not isinstance(caught.value, LockedError)
