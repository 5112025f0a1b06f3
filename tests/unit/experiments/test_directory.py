"""A run's own directory: never somebody else's, and held by one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from secateurs.errors import LockedError, OutputError
from secateurs.experiments.directory import MARK, check_directory, locked


def test_checking_creates_nothing(tmp_path: Path) -> None:
    check_directory(tmp_path / "a" / "b", "this")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_and_an_earlier_run_will_do(tmp_path: Path) -> None:
    check_directory(tmp_path, "this")
    (tmp_path / MARK).write_text("this")
    (tmp_path / "results.json").write_text("")
    check_directory(tmp_path, "this")


def test_a_file_a_place_below_a_file_and_a_foreign_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt is a file; name a directory"):
        check_directory(tmp_path / "mine.txt", "this")
    with pytest.raises(OutputError, match=r"below cannot be written: no permission in .*mine\.txt\."):
        check_directory(tmp_path / "mine.txt" / "below", "this")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        check_directory(tmp_path, "this")
    with pytest.raises(OutputError, match="is not empty and holds no run"), locked(tmp_path, "this"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_where_nobody_can_write_is_refused() -> None:
    with (
        pytest.raises(OutputError, match=r"/proc/secateurs(: |.* cannot be written)"),
        locked(Path("/proc/secateurs"), "this"),
    ):
        pass


def test_another_process_cannot_hold_the_directory_until_it_is_let_go(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from secateurs.experiments.directory import locked\n"
        "with locked(Path(sys.argv[1]), 'this'): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with locked(tmp_path / "run", "this") as held:
        assert held.is_dir()
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "LockedError: Another run is writing" in other.stderr
        with (
            pytest.raises(LockedError, match="Wait for it, or name another directory"),
            locked(tmp_path / "run", "this"),
        ):
            pass
    assert subprocess.run(command, check=False).returncode == 0


def test_a_failed_run_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "this"):
        raise ZeroDivisionError
    with locked(tmp_path, "this"):
        pass


def test_a_directory_is_bound_to_what_is_run_there(tmp_path: Path) -> None:
    with locked(tmp_path, "this"):
        assert (tmp_path / MARK).read_text() == "this"
    with pytest.raises(OutputError, match="holds another exploration"):
        check_directory(tmp_path, "that")
    with pytest.raises(OutputError, match="holds another exploration"), locked(tmp_path, "that"):
        pass
    assert (tmp_path / MARK).read_text() == "this"


def test_what_a_killed_run_left_half_written_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    with locked(tmp_path, "this"):
        pass
    for name in (".results.json.abc.tmp", "mine.tmp", "models/trained/.model.safetensors.x.tmp", "elsewhere/.mine.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with locked(tmp_path, "this"):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")}
    assert left == {"mine.tmp", "elsewhere/.mine.tmp"}


def test_what_differs_from_the_run_that_is_there_is_named(tmp_path: Path) -> None:
    with locked(tmp_path, "a: {b: 1, c: [1, 2]}\nd: 4\n"):
        pass
    with pytest.raises(
        OutputError, match=r"another exploration: a\.b is 1 there, 2 here; e is 'nothing' there, 5 here\."
    ):
        check_directory(tmp_path, "a: {b: 2, c: [1, 2]}\nd: 4\ne: 5\n")
    with pytest.raises(OutputError, match=r"; d is 4 there, 3 here, and 1 more\. Name"):
        check_directory(tmp_path, "a: {b: 2, c: [1]}\nd: 3\nf: 1\n")
    with pytest.raises(OutputError, match=r"holds a run of another kind \(exploration\)"):
        check_directory(tmp_path, "a: 1", "lottery.yaml")
