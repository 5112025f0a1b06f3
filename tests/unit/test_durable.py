"""A complete file stays readable until its replacement is; what goes wrong is one OutputError."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from secateurs.durable import make_directory, replacing, sweep, sync_directory, write_bytes, write_json, write_text
from secateurs.errors import OutputError


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bytes_text_and_json_read_back(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"\0\xff")
    write_text(tmp_path / "t", "ναί\n")
    write_json(tmp_path / "j", {"a": [1, None, "é"]})
    assert (tmp_path / "b").read_bytes() == b"\0\xff"
    assert (tmp_path / "t").read_bytes() == "ναί\n".encode()
    assert json.loads((tmp_path / "j").read_text(encoding="utf-8")) == {"a": [1, None, "é"]}
    assert names_in(tmp_path) == ["b", "j", "t"]


def test_json_without_a_meaning_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "j", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "j", {"loss": float("nan")})
    assert (tmp_path / "j").read_text() == "1\n"
    assert names_in(tmp_path) == ["j"]


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")
    monkeypatch.setattr(f"secateurs.durable.os.{call}", full_disk)
    with pytest.raises(OutputError, match=r"Cannot write .*results\.json: No space left on device\.") as told:
        write_text(path, "new")
    assert told.value.exit_code == 4
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["results.json"]


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "f"
    write_text(path, "old")
    monkeypatch.setattr("secateurs.durable.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert (path.read_text(), names_in(tmp_path)) == ("old", ["f"])


def test_the_new_name_is_made_durable_after_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        calls.append("sync directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        fsync(handle)

    def watched_replace(*paths: str) -> None:
        calls.append("replace")
        replace(*paths)

    monkeypatch.setattr("secateurs.durable.os.fsync", watched_fsync)
    monkeypatch.setattr("secateurs.durable.os.replace", watched_replace)
    write_text(tmp_path / "f", "x")
    assert calls == ["sync file", "replace", "sync directory"]


def test_new_directories_are_made_durable_in_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("secateurs.durable.sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_directory(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names_in(tmp_path / "far") == ["real"]
    assert names_in(tmp_path) == ["far", "link"]


def test_the_umask_and_the_mode_of_what_stands_there_are_respected(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
        assert mode_of(tmp_path / "new") == 0o640
        (tmp_path / "old").write_text("x")
        (tmp_path / "old").chmod(0o604)
        write_text(tmp_path / "old", "y")
        assert mode_of(tmp_path / "old") == 0o604
        assert os.umask(0o027) == 0o027, "the umask itself is left as it was"
    finally:
        os.umask(before)


def test_places_that_cannot_be_written_are_one_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "missing" / "f", tmp_path / "directory"):
        with pytest.raises(OutputError, match=f"Cannot write {path}: "):
            write_text(path, "x")
    with pytest.raises(OutputError, match=r"Cannot make the directory .*below: Not a directory"):
        make_directory(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"
    assert names_in(tmp_path) == ["directory", "file"]
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_one_output_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_text(tmp_path / "closed" / "f", "x")


def test_a_directory_that_cannot_be_synced_is_an_output_error_and_windows_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"Cannot make .*missing durable: No such file"):
        sync_directory(tmp_path / "missing")
    monkeypatch.setattr("secateurs.durable.os.name", "nt")
    sync_directory(tmp_path / "missing")


def test_a_name_that_is_no_text_is_written_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"mod\xe9l")
    write_json(tmp_path / "j", {name: "é"})
    assert json.loads((tmp_path / "j").read_bytes()) == {name: "é"}
    write_text(tmp_path / "t", f"{name} é")
    assert (tmp_path / "t").read_text("utf-8") == r"mod\udce9l é"


def test_a_directory_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"it is a directory\. Name a file"), replacing(tmp_path):
        pytest.fail("the work began")


def test_what_killed_runs_left_of_a_file_is_swept_and_nothing_else(tmp_path: Path) -> None:
    others = ["a.b", ".a.b.x.tmp", ".a.b.c.d0000000.tmp", ".a.d0000000.tmp", ".a.b.d0000000.tmp.txt"]
    for name in (*others, ".a.b.d_0abcd9.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path / "a.b")
    assert names_in(tmp_path) == sorted(others)
