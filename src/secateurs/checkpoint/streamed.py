"""Streamed pruning: a checkpoint of any size becomes a pruned directory, one stretch of one tensor at a time.

    prune_checkpoint("model/", Recipe(budget="sparsity(0.7)"), out="pruned/")

A shard is written to a temporary file, made durable and renamed; then its report is. A run that was ended at any
instant goes on with the same call, without the shards that are done; the manifest is written last. The order of the
bytes depends on nothing but the source and the recipe.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import numpy as np

from secateurs.checkpoint import manifest
from secateurs.checkpoint.cutting import Cutter, n_zeros
from secateurs.checkpoint.direct import DirectFile
from secateurs.checkpoint.opening import open_checkpoint
from secateurs.checkpoint.plan import Plan, Planned, make_plan
from secateurs.checkpoint.shards import INDEX, Shard, carried, index_of, shards_of
from secateurs.checkpoint.tensors import Checkpoint, Stored
from secateurs.checks import shown
from secateurs.durable import make_directory, sync_directory, write_bytes, write_json, write_pieces, write_text
from secateurs.errors import InputError, LockedError, OutputError, SecateursError
from secateurs.exact.kinds import KINDS
from secateurs.exact.ranks import ALONE, Ranks
from secateurs.exact.threads import n_threads
from secateurs.locks import held
from secateurs.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

WORK = ".secateurs"  # what an unfinished run keeps in its output directory
AHEAD = 2  # stretches that wait to be written while the next is zeroed


@dataclass
class Progress:
    """How far a run is, in bytes of shards; read from other threads."""

    n_bytes: int = 0
    n_bytes_done: int = 0
    doing: str = "reading"


@dataclass
class Streaming:
    """One run: a source, a recipe and an output directory; `run` does the work."""

    checkpoint: Checkpoint
    recipe: Recipe
    out: Path
    ranks: Ranks = ALONE
    progress: Progress = field(default_factory=Progress)
    was_done: bool = False  # the result was there already
    n_resumed: int = 0  # shards that an earlier run of the same request had finished

    def run(self) -> dict[str, Any]:
        """The manifest of the result. A finished result of the same request is checked for its sizes and returned.

        Raises before anything is written: RecipeError, PatternError, OutputError (no room, no permission, a directory
        that holds something else), LockedError. InputError (weights that are not finite, or cannot be read) comes
        where they are read: shards before them may be finished, and stay.
        """
        plan = make_plan(self.checkpoint, self.recipe)
        shards = shards_of(self.checkpoint)
        n_threads()  # refuses a setting that makes no sense, before anything is made
        request = manifest.request_of(self.checkpoint, plan)
        self.check()
        if (found := self._finished_for_all(request)) is not None:
            return found
        work = self.out / WORK
        with self._alone(work):
            if (found := self._finished_for_all(request)) is not None:
                return found  # of another run, between our look and our lock
            if self.ranks.index == 0:
                with refusing(self.out):
                    self._begin(work, request, shards)
            self.ranks.wait()
            mine = _share(shards, self.ranks)
            self._write_all(
                work, plan, [shard for shard, rank in zip(shards, mine, strict=True) if rank == self.ranks.index]
            )
            self.ranks.wait()
            if self.ranks.index == 0:
                with self._telling_what_is_done(work):
                    self._finish(work, plan, shards, request)
            self.ranks.wait()
        return self._finished(request) or {}

    def check(self) -> None:
        """OutputError unless the output directory can be written and would not touch the source."""
        path, out = self.checkpoint.path, self.out
        with refusing(out):
            if path is not None:
                home = (path if path.is_dir() else path.parent).resolve()
                if out.resolve() == home:
                    raise OutputError(
                        f"{out} is where the source lies, and inputs are never modified. Name another directory."
                    )
                if path.is_dir() and home in out.resolve().parents:
                    raise OutputError(f"{out} lies inside the source {path}. Name a directory outside of it.")
            if out.exists() and not out.is_dir():
                raise OutputError(f"{out} is a file; name a directory for the pruned checkpoint.")
            existing = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise OutputError(f"{out} cannot be written: no permission in {existing}.")

    def _finished_for_all(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """As `_finished` where the first rank looks, so that all ranks go the same way."""
        found = self._finished(request) if self.ranks.index == 0 else None
        if not self.ranks.sum([found is not None])[0]:
            return None
        self.was_done = True
        return found or self._finished(request) or {}

    def _finished(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The manifest of a finished result of this request, None where there is none yet."""
        path = self.out / manifest.NAME
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            same = all(found[key] == request[key] for key in ("version", "recipe")) and all(
                found["source"][key] == value for key, value in request["source"].items()
            )
            sizes = {name: about["size"] for name, about in found["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise OutputError(f"{path} cannot be read ({error}). Name a new directory, or delete this one.") from error
        if not same:
            raise OutputError(
                f"{self.out} holds the result of another request, or its source was written to since. Name a new "
                "directory, or delete this one."
            )
        for name, size in sizes.items():
            if not (self.out / name).is_file() or (self.out / name).stat().st_size != size:
                raise OutputError(
                    f"{self.out} lacks '{name}' or a part of it. Delete the directory and run this again."
                )
        if self.ranks.index == 0:
            shutil.rmtree(self.out / WORK, ignore_errors=True)  # of a run that was ended just before
        return dict(found)

    @contextmanager
    def _alone(self, work: Path) -> Iterator[None]:
        """Hold the output directory; the ranks of one run hold it together, through their first."""
        with refusing(self.out):
            is_new = not self.out.exists()
            make_directory(self.out)
            if self.ranks.index == 0:
                strangers = [item.name for item in self.out.iterdir() if item.name != WORK]
                if strangers and not (work / "request.json").is_file():
                    raise OutputError(
                        f"{self.out} is not empty and holds no unfinished run. Name a new directory, so that nothing "
                        "of yours is lost."
                    )
                make_directory(work)
        if self.ranks.index:
            yield
            return
        with self._lock(work):
            try:
                yield
            except BaseException as error:
                with suppress(OSError):
                    # Weights that cannot be pruned are only found when they are read; where no shard was finished
                    # before, the directory is as it was, free for another request.
                    is_untouched = self.ranks.n == 1 and [item.name for item in self.out.iterdir()] == [WORK]
                    if isinstance(error, InputError) and is_untouched:
                        shutil.rmtree(work)
                    elif not (work / "request.json").is_file():
                        (work / "lock").unlink()
                        work.rmdir()
                    if is_new:
                        self.out.rmdir()
                raise

    @contextmanager
    def _lock(self, work: Path) -> Iterator[None]:
        """Hold the lock in `work`, which a run that finishes takes away with it."""
        ours = work / "lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(held(ours, of=self.out))
            except OutputError:
                if work.is_dir():
                    with suppress(OSError):
                        work.rmdir()  # where it is empty, as we made it
                    raise
            if not ours.exists():
                raise LockedError(f"Another run has just finished {self.out}. Run the same command again to see it.")
            yield

    def _begin(self, work: Path, request: Mapping[str, Any], shards: tuple[Shard, ...]) -> None:
        """Bind the directory to this request, clean up what a killed run left, and see that there is room."""
        path, text = work / "request.json", json.dumps(request, indent=1)
        if path.is_file() and path.read_bytes() != text.encode():
            raise OutputError(
                f"{self.out} holds an unfinished run of another request, or its source has changed since. Name a new "
                "directory, or delete this one."
            )
        for left_over in (*work.glob("*.part"), *self.out.rglob(".*.tmp")):
            left_over.unlink()
        missing = [shard for shard in shards if not _is_done(work, shard, self.out)]
        for shard in missing:
            _report_path(work, shard).unlink(missing_ok=True)  # damaged, or of a shard that somebody took away
        n_carried = sum(_size(path) for path in carried(self.checkpoint))
        needed = sum(shard.n_bytes for shard in missing) + n_carried + (1 << 20)
        free = shutil.disk_usage(self.out).free
        if free < needed:
            raise OutputError(
                f"{self.out} needs {needed:,} bytes and the disk has {free:,}. Make room, and run the command again."
            )
        write_text(path, text)

    def _write_all(self, work: Path, plan: Plan, shards: list[Shard]) -> None:
        """Write this rank's shards."""
        planned = {each.name: each for each in plan.tensors}
        names = frozenset(entry.name for shard in shards for entry in shard.entries)
        self.progress.n_bytes = sum(shard.n_bytes for shard in shards)
        cutter = Cutter(self.checkpoint, plan, self.ranks, names)
        self.progress.doing = "choosing"
        cutter.prepare()  # also where nothing is left to do here: other ranks count on this one's counts
        self.progress.doing = "writing"
        with self._telling_what_is_done(work), _writing(work) as writer:
            for shard in shards:
                if not _report_path(work, shard).is_file():
                    self._write(work, shard, planned, cutter, writer)
                else:
                    self.n_resumed += 1
                    self.progress.n_bytes_done += shard.n_bytes

    @contextmanager
    def _telling_what_is_done(self, work: Path) -> Iterator[None]:
        """Add to what is wrong with the source that finished shards bind the directory to this request."""
        try:
            yield
        except InputError as error:
            if not any(work.glob("*.done.json")):
                raise
            raise InputError(
                f"{error} Shards before it are finished in {self.out}; delete {self.out} before another request."
            ) from error

    def _write(
        self, work: Path, shard: Shard, planned: Mapping[str, Planned], cutter: Cutter, writer: "_Writer"
    ) -> None:
        # A name of its own: a rank of an earlier run may still be there, and must not write into this file.
        part = writer.begin(f"{shard.name}.{uuid4().hex[:12]}.part")
        writer.put(np.frombuffer(shard.header, np.uint8))
        layers = [self._write_tensor(planned[entry.name], cutter, writer) for entry in shard.entries]
        self.checkpoint.assert_unchanged()

        def done(sha256: str) -> None:
            os.replace(part, self.out / shard.name)
            sync_directory(self.out)
            write_json(_report_path(work, shard), {"size": shard.n_bytes, "sha256": sha256, "layers": layers})

        writer.end(done)

    def _write_tensor(self, each: Planned, cutter: Cutter, writer: "_Writer") -> dict[str, Any]:
        entry = each.entry
        kind = KINDS.get(entry.dtype)
        n_pruned, n_before, n_after = 0, 0, 0
        if each.status != "pruned":
            stored = cutter.checkpoint.stored(entry)
            n_before = n_after = n_zeros(stored, kind) if kind is not None else 0
            writer.put(stored)
            self.progress.n_bytes_done += entry.n_bytes
        else:
            assert kind is not None
            knife = cutter.knife(each)
            n_pruned = knife.n_pruned
            for buffer, before, after in cutter.pruned(each, knife):
                n_before, n_after = n_before + before, n_after + after
                writer.put(buffer)
                self.progress.n_bytes_done += buffer.nbytes
        return {
            "name": entry.name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "n": entry.n,
            "n_pruned": n_pruned,
            "n_zero_before": n_before,
            "n_zero": n_after,
            "status": each.status,
            "reason": each.reason,
            "aliases": list(entry.aliases),
            "tau": cutter.taus.get(entry.name),
            "sigma": cutter.sigmas.get(entry.name),
            "is_turned": entry.is_turned,
            "groups": entry.groups,
        }

    def _finish(self, work: Path, plan: Plan, shards: tuple[Shard, ...], request: Mapping[str, Any]) -> None:
        """Carry the other files over, then write the manifest."""
        self.progress.doing = "finishing"
        files: dict[str, dict[str, Any]] = {}
        by_name: dict[str, dict[str, Any]] = {}
        for shard in shards:
            report = json.loads(_report_path(work, shard).read_text("utf-8"))
            files[shard.name] = {"size": report["size"], "sha256": report["sha256"]}
            by_name |= {layer["name"]: layer for layer in report["layers"]}
        for path in carried(self.checkpoint):
            assert self.checkpoint.path is not None
            name = str(path.relative_to(self.checkpoint.path))
            files[name] = _carry(path, self.out / name)
        if index := index_of(self.checkpoint, shards):
            write_bytes(self.out / INDEX, index)
            files[INDEX] = {"size": len(index), "sha256": hashlib.sha256(index).hexdigest()}
        self.checkpoint.assert_unchanged()
        if manifest.fingerprint_of_others(self.checkpoint) != request["source"]["others"]:
            raise InputError(
                f"A file of '{self.checkpoint.path}' was written to while it was read. Start again when nobody writes "
                "to it."
            )
        notes = {
            "left": [list(each) for each in self.checkpoint.left],
            "ignored": [list(each) for each in self.checkpoint.ignored],
            "notes": list(self.checkpoint.notes),
        }
        layers = [by_name[each.name] for each in plan.tensors]
        write_json(
            self.out / manifest.NAME, manifest.make_manifest(request, self.checkpoint.path, files, layers, notes)
        )
        shutil.rmtree(work, ignore_errors=True)  # somebody who looks whether we are there may be making a lock in it
        sync_directory(self.out)


def prune_checkpoint(
    source: "str | os.PathLike[str] | nn.Module",
    recipe: Recipe,
    out: str | os.PathLike[str],
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Prune whatever `open_checkpoint` opens by a recipe whose score needs only weights, into the directory `out`.

    returns  the manifest: files with size and sha256, and of every tensor its counts, or why it was left alone

    The source is only read. A run that was ended goes on with the same call, to the same bytes. Raises RecipeError,
    PatternError, OutputError, LockedError before anything of `out` changes; InputError where weights are read, so
    that finished shards may stay there.
    """
    with open_checkpoint(source) as checkpoint:
        return Streaming(checkpoint, recipe, Path(out), ranks).run()


_COUNTS = {"n", "n_pruned", "n_zero_before", "n_zero"}
_REPORTED = _COUNTS | {"name", "shape", "dtype", "status", "reason", "aliases", "tau", "sigma", "is_turned", "groups"}


@contextmanager
def refusing(out: Path) -> Iterator[None]:
    """Turns what the system says to a name that cannot be, or to what lies in the way, into an OutputError."""
    try:
        yield
    except SecateursError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"{shown(os.fspath(out))} cannot be written: {why}. Name another directory.") from error


def _report_path(work: Path, shard: Shard) -> Path:
    return work / f"{shard.name}.done.json"


def _is_done(work: Path, shard: Shard, out: Path) -> bool:
    """Whether a shard is where it belongs, with a report that fits it."""
    try:
        report = json.loads(_report_path(work, shard).read_bytes())
        size = (out / shard.name).stat().st_size
        layers = report["layers"]
        names = [layer["name"] for layer in layers]
        is_whole = isinstance(report["sha256"], str) and all(
            layer.keys() == _REPORTED and all(isinstance(layer[key], int) for key in _COUNTS) for layer in layers
        )
        is_here = report["size"] == size == shard.n_bytes and names == [entry.name for entry in shard.entries]
        return bool(is_whole and is_here)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"Cannot read '{path}': {error.strerror or error}.") from error


def _carry(path: Path, target: Path) -> dict[str, Any]:
    """Copy one of the source's other files; its size and sha256."""
    digest, n_bytes = hashlib.sha256(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal n_bytes
        try:
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    digest.update(data)
                    n_bytes += len(data)
                    yield data
        except OSError as error:
            raise InputError(f"Cannot read '{path}': {error.strerror or error}.") from error

    make_directory(target.parent)
    write_pieces(target, pieces())
    return {"size": n_bytes, "sha256": digest.hexdigest()}


def _share(shards: tuple[Shard, ...], ranks: Ranks) -> list[int]:
    """The rank that writes each shard, by bytes, the same on every rank."""
    loads, found = [0] * ranks.n, [0] * len(shards)
    for i in sorted(range(len(shards)), key=lambda i: (-shards[i].n_bytes, i)):
        found[i] = loads.index(min(loads))
        loads[found[i]] += shards[i].n_bytes
    return found


class _Writer:
    """Writes files in order, on a thread of its own, and hashes them on another, also while the next is made; the error
    of one comes with a later call. A file is durable before what ends it is done, and those that did not get there are
    taken away.
    """

    def __init__(self, work: Path, writing: ThreadPoolExecutor, hashing: ThreadPoolExecutor) -> None:
        self._work = work
        self._writing = writing
        self._hashing = hashing
        self._waiting: deque[tuple[Future[None], ...]] = deque()
        self._digest = hashlib.sha256()
        self._has_failed = False
        self._files: list[DirectFile] = []  # begun and not durable, the eldest first

    def begin(self, name: str) -> Path:
        """A new file, which the next buffers belong to; its path."""
        self._digest = hashlib.sha256()
        self._submit(partial(self._open, self._work / name))
        return self._work / name

    def put(self, buffer: Stored) -> None:
        """Take one buffer, which must not change any more."""
        for start in range(0, buffer.size, _SLICE):
            data = memoryview(cast(Any, buffer[start : start + _SLICE].view(np.uint8)))
            self._submit(partial(self._write, data), self._hashing.submit(self._digest.update, data))

    def end(self, done: Callable[[str], None]) -> None:
        """That was all of it: make it durable, then call `done` with its sha256."""
        sha256 = self._hashing.submit(self._digest.hexdigest)
        self._submit(partial(self._end, sha256, done))

    def wait(self, n: int = 0) -> None:
        """Until everything is written, or all but the last n."""
        while len(self._waiting) > n:
            for each in self._waiting.popleft():
                each.result()

    def give_up(self) -> None:
        """Take the files away that are not durable."""
        for thread in (self._writing, self._hashing):
            thread.shutdown(wait=True, cancel_futures=True)
        for file in self._files:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                os.unlink(file.path)

    def _submit(self, task: Callable[[], None], *beside: Future[None]) -> None:
        self.wait(AHEAD)
        self._waiting.append((self._writing.submit(self._run, task), *beside))

    def _run(self, task: Callable[[], None]) -> None:
        if self._has_failed:
            return  # what was asked for before the error was known must not make a file of a part of it
        try:
            task()
        except BaseException:
            self._has_failed = True
            raise

    def _open(self, path: Path) -> None:
        self._files.append(DirectFile(path))

    def _write(self, data: memoryview) -> None:
        self._files[-1].write(data)

    def _end(self, sha256: Future[str], done: Callable[[str], None]) -> None:
        self._files[-1].finish()
        done(sha256.result())
        self._files.pop()


_SLICE = 1 << 22  # items that are hashed and written together


@contextmanager
def _writing(work: Path) -> Iterator[_Writer]:
    """A writer whose files are durable and done when the block ends; one that is not done is gone where it fails."""
    with ThreadPoolExecutor(1, "secateurs-writer") as writing, ThreadPoolExecutor(1, "secateurs-hasher") as hashing:
        writer = _Writer(work, writing, hashing)
        try:
            yield writer
            writer.wait()
        except OSError as error:
            writer.give_up()
            raise OutputError(
                f"Cannot write {work.parent}: {error.strerror or error}. Nothing that was done is lost; make room, and "
                "run the same command again."
            ) from error
        except BaseException:
            writer.give_up()
            raise
