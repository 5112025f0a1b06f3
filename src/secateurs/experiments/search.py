"""Search: from a goal to the network that measurably meets it, through candidates that get more training in turn.

    found = Search(ground, out, n_jobs).run()

1. the dense network, trained or given, and how much each layer alone can lose;
2. the same, stored in every way that is known, and nothing trained;
3. candidates for a short while, the gentle first, and none that became hopeless by what these lost; each is also stored
   in every way;
4. those at the edge of what the goal allows, again from the dense network, three times as long, and once more, as long
   as there is time; now trained with their values, too.

Validation examples alone are looked at. Killed, it goes on; what the clock decided is kept in pace.yaml and
clock_decided.json.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.data.splits import in_proportion
from secateurs.durable import write_json, write_text
from secateurs.evaluating import threads
from secateurs.experiments.aiming import BOLDEST, aimed, beyond_hope, is_hopeless, worth_tuning
from secateurs.experiments.candidates import EXACT, TUNED, Candidate, Chains
from secateurs.experiments.cells import Cell, read
from secateurs.experiments.choosing import Tried, best, closest, front
from secateurs.experiments.compression import LAMP, SPREADS, Ground, spread_by
from secateurs.experiments.pacing import Clock, Cost, Pace, n_turns, pace_of, replanned
from secateurs.experiments.probes import Probe, probe_all, seconds_of
from secateurs.experiments.sensitivity import scan
from secateurs.experiments.work import Progress, Work, seconds_per_step
from secateurs.layers import layers
from secateurs.masks import Masks
from secateurs.measure.accuracy import accuracy

SCANNED = (0.0, 0.5, 0.8, 0.9, 0.95)
SPREAD_AT = 0.8  # of the weights zeroed at once shows which way to spread zeros loses least
N_SCANNED, SCAN_SHARE = 1000, 0.03  # validation examples at most, and share of the time
SHARES = ((BOLDEST, 0.6), (1.0, 0.85))  # of the drop that is allowed: what the boldest and the safest of a rung aim at
N_FRONT = 12  # candidates that no other beats, about: each is timed at the end
FIRST = 0.4  # of the time that was asked for, beyond which no other turn of the first rung begins
LATE = 1.1  # times the time that was asked for, beyond which nothing more is begun


@dataclass(frozen=True)
class Found:
    """What a search came to.

    chosen  the best, or the closest where none meets the goal
    is_met  whether it does, on validation examples
    tried   everything that was measured
    """

    chosen: Tried
    is_met: bool
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]


class Search:
    """A search in a directory; `progress` and `text` may be asked from another thread."""

    def __init__(self, ground: Ground, out: Path, n_jobs: int) -> None:
        self.ground = ground
        self.out = out
        self.n_jobs = n_jobs
        self.clock = Clock(out / "clock.json")
        self.text = ""
        self._work = Work([], out, len(ground.data.y_train), n_jobs=n_jobs)
        self._pace: Pace | None = None

    def run(self) -> Found:
        """Try, measure, choose."""
        goal = self.ground.asked.goal
        candidates, notes = self.ground.shapes()
        self._pace = pace = self._paced(len(candidates))
        self.text = "the dense network"
        self.perform([self.ground.dense])
        self.text = "how much each layer alone can lose"
        self._scan()
        self.text = "the dense network, rounded as it is"
        tried = self._as_it_is()
        seen: list[tuple[float, float]] = []  # (epochs, seconds) of a turn in each rung
        for rung in range(len(pace.rungs)):
            if rung:
                candidates = self._aimed(rung, tried, Cost.of(seen, pace.epoch_s), notes)
            if not candidates:
                break
            seen.append(self._climb(rung, candidates, tried))
            notes += self._left_out(candidates, tried)
        self.text = "how long the best take"
        tried = self._timed(tried)
        chosen = best(tried, goal)
        return Found(chosen or closest(tried, goal), chosen is not None, tuple(tried), tuple(notes))

    def perform(self, cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
        """The results of these cells; the missing ones are run."""
        return self._work.run(cells)

    @property
    def pace(self) -> Pace:
        """How long candidates are trained; once `run` has begun."""
        assert self._pace is not None
        return self._pace

    @property
    def chains(self) -> Chains:
        """What the candidates share; once `run` has looked at the layers."""
        known = read(self.out / "sensitivity.json")
        return self.ground.chains(spread_by(known["spread"], known["scan"], known["sizes"]))

    def cell_of(self, each: Tried) -> Cell:
        """The cell whose network it is; rounded to its values where it was not trained with them."""
        if not each.epochs:
            return self.chains.first
        make = self.chains.finished if each.is_tuned else self.chains.pruned
        return make(each.candidate, each.epochs)

    def seconds_of(self, cell: Cell, values: str) -> dict[str, Any]:
        """Measured times of one example."""
        return seconds_of(cell, self.ground.dense, values, self.chains.stored(values), self.ground.data, self.out)

    def progress(self) -> Progress:
        """How far it is; steps that were trained once for several candidates are counted once."""
        now = self._work.progress()
        return replace(now, n_steps=max(now.n_steps_done, self._pace.n_steps if self._pace else 1))

    def _paced(self, n_shapes: int) -> Pace:
        kept = self.out / "pace.yaml"
        if not kept.exists():
            ground = self.ground
            step_s = seconds_per_step(ground.network, ground.data, ground.asked.training, self.n_jobs)
            pace = pace_of(ground.asked, n_shapes, len(ground.data.y_train), step_s, self.n_jobs)
            write_text(kept, pace.to_yaml())
        return Pace.from_yaml(kept.read_text("utf-8"))

    def _as_it_is(self) -> list[Tried]:
        """The dense network in every way to store it: nothing is zeroed, nothing trained."""
        return self._measured({self.chains.first: (Candidate(0.0, 0.0), self.chains.values)}, 0.0, is_tuned=False)

    def _aimed(self, rung: int, tried: list[Tried], cost: Cost, notes: list[str]) -> list[Candidate]:
        """The candidates of a rung, as many as there is time for; notes: where these are fewer than planned."""
        n_rungs = len(self.pace.rungs)
        self._pace = self._replanned(rung, cost)
        shares = np.linspace(*SHARES[rung - 1], self.pace.kept[rung]).tolist()
        last = self.pace.rungs[-1]
        candidates = aimed(tried, self.ground.asked.goal, last, self._tuned_steps(last), shares)
        uncut = self._learning(tried, self.pace.rungs[1]) if rung == 1 else None
        if uncut is not None and all(each.shape != uncut for each in candidates):
            candidates[-1] = uncut
        n = self._fitting(rung, len(candidates), cost.turn(self.pace.rungs[rung] * (1 + TUNED)))
        if n < len(candidates):
            said = f"{n} of {len(candidates)} candidates" if n else "none"
            notes.append(f"In rung {rung + 1} of {n_rungs} there was time for {said}.")
        return candidates[len(candidates) - n :]  # the boldest are left out first

    def _tuned_steps(self, epochs: float) -> int:
        """Of the training with its values that follows so many epochs."""
        return round(TUNED * epochs * self.ground.asked.training.steps_per_epoch(len(self.ground.data.y_train)))

    def _learning(self, tried: Sequence[Tried], epochs: float) -> Candidate | None:
        """The network of which nothing is cut, where with values it learns it may be smaller than all that will do."""
        goal = self.ground.asked.goal
        uncut = [each for each in tried if not each.candidate.is_cut]
        n_steps = round(self._tuned_steps(epochs) / TUNED)  # it learns with them from the start
        found, least = worth_tuning(uncut, goal, n_steps), best(tried, goal)
        if found is None or goal.size_bytes is not None:
            return None
        size = next(each.size_bytes for each in uncut if each.candidate == found)
        return found.shape if least is None or size < least.size_bytes else None

    def _climb(self, rung: int, candidates: Sequence[Candidate], tried: list[Tried]) -> tuple[float, float]:
        """Try the candidates of a rung, and add what was found; the epochs and seconds of a turn."""
        n_before, turns, seconds, epochs = len(tried), 0, [], self.pace.rungs[rung]
        for some in self._in_turn(candidates, tried) if not rung else [candidates]:
            self.text = f"rung {rung + 1} of {len(self.pace.rungs)}: {len(some)} candidates"
            begun, n = self.clock.seconds, n_turns(len(some), self.pace.n_jobs)
            tried += self._try(some, epochs, tried, is_tuned=rung > 0)
            turns += n
            seconds.append((self.clock.seconds - begun) / n)
        self.clock.keep()
        n_tuned = sum(each.is_tuned for each in tried[n_before:])
        # The first turn also loads, compiles and asks the teacher, once for all.
        turn_s = self._decided(f"seconds of a turn in rung {rung}", min(seconds))
        return epochs * (1 + TUNED * n_turns(n_tuned, self.pace.n_jobs) / turns), turn_s

    def _in_turn(self, candidates: Sequence[Candidate], tried: list[Tried]) -> Iterator[list[Candidate]]:
        """As many as there are cores, the gentle first; those that became hopeless are left out."""
        left, turn = sorted(candidates, key=lambda each: (each.sparsity, each.student)), 1
        while left := [each for each in left if not self._is_hopeless(each, tried)]:
            if turn > 1 and not self._goes_on(turn):
                return
            yield left[: self.pace.n_jobs]
            left, turn = left[self.pace.n_jobs :], turn + 1

    def _goes_on(self, turn: int) -> bool:
        """Whether there is time for another turn of the first rung."""
        asked = self.ground.asked
        has_time = asked.epochs is not None or self.clock.seconds < FIRST * asked.max_time_s
        return bool(self._decided(f"turn {turn} in rung 0", float(has_time)))

    def _is_hopeless(self, each: Candidate, tried: Sequence[Tried]) -> bool:
        return is_hopeless(each, tried, self.ground.asked.goal, self.pace.rungs[-1])

    def _left_out(self, candidates: Sequence[Candidate], tried: Sequence[Tried]) -> list[str]:
        """Notes: which of a rung's candidates were not tried, and why."""
        there = {each.candidate.shape for each in tried}
        left = [each for each in candidates if each.shape not in there]
        hopeless = [each.cut for each in left if self._is_hopeless(each, tried)]
        late = [each.cut for each in left if not self._is_hopeless(each, tried)]
        why = {"what is gentler lost far too much": hopeless, "there was no time": late}
        return [f"Not tried, as {reason}: {'; '.join(cuts)}." for reason, cuts in why.items() if cuts]

    def _replanned(self, rung: int, cost: Cost) -> Pace:
        """With this rung and those after it as long as there is time for, which is decided once."""
        asked, data = self.ground.asked, self.ground.data
        if asked.epochs is not None:
            return self.pace
        left_s = asked.max_time_s - self.clock.seconds - N_FRONT * self._timing_s()
        left_s = self._decided(f"seconds left before rung {rung}", left_s)
        sizes = (len(data.y_train), len(data.y_val), len(data.y_test))
        return replanned(asked, self.pace, rung, left_s, cost, sizes)

    def _timing_s(self) -> float:
        """What it takes to time one network."""
        begun = self.clock.seconds
        self.seconds_of(self.chains.first, EXACT)
        return self._decided("seconds of a timing", self.clock.seconds - begun)

    def _fitting(self, rung: int, n: int, turn_s: float) -> int:
        """How many of n candidates there is time for; turn_s: seconds of as many as there are cores, side by side."""
        asked = self.ground.asked
        if asked.epochs is not None:
            return n
        left_s = LATE * asked.max_time_s - self.clock.seconds
        turns = max(0, round(left_s / turn_s))
        return int(self._decided(f"n in rung {rung}", min(n, turns * self.pace.n_jobs)))

    def _decided(self, what: str, found: float) -> float:
        """What the clock decides is what it decided when the run came here first."""
        kept = self.out / "clock_decided.json"
        known: dict[str, float] = read(kept) if kept.exists() else {}
        if what not in known:
            known[what] = found
            write_json(kept, known)
        return known[what]

    def _try(
        self, candidates: Sequence[Candidate], epochs: float, tried: Sequence[Tried], *, is_tuned: bool
    ) -> list[Tried]:
        """Train the candidates; what is found of each, with its own values and with all others."""
        chains, text = self.chains, self.text
        shapes = list(dict.fromkeys(each.shape for each in candidates))
        pruned = {shape: chains.pruned(shape, epochs) for shape in shapes if shape.is_cut}
        found = self._measured({cell: (shape, chains.values) for shape, cell in pruned.items()}, epochs, is_tuned=False)
        if not is_tuned:
            return found
        self.text = f"{text}, with their values"
        known = [*found, *(each for each in tried if not each.epochs)]
        worth = [
            worth_tuning(
                [each for each in known if each.candidate.shape == shape],
                self.ground.asked.goal,
                round(self._tuned_steps(epochs) / (1.0 if shape.is_cut else TUNED)),
            )
            for shape in shapes
        ]
        tuned = {chains.finished(each, epochs): (each.shape, (each.values,)) for each in worth if each is not None}
        return found + self._measured(tuned, epochs, is_tuned=True)

    def _measured(
        self, cells: Mapping[Cell, tuple[Candidate, Sequence[str]]], epochs: float, *, is_tuned: bool
    ) -> list[Tried]:
        """What is found of {cell: (its shape, the values to store it in)}; the cells are trained first."""
        self.perform(cells)
        self.text += ", measuring"
        most = beyond_hope(self.ground.asked.goal, epochs, self.pace.rungs[-1]) if epochs else None
        asked = [
            Probe(cell, self.ground.dense, tuple((name, self.chains.stored(name)) for name in values), most=most)
            for cell, (_, values) in cells.items()
        ]
        tried, is_timed = [], self.ground.asked.latency_s is not None
        for one, found in zip(asked, probe_all(asked, self.out, self.n_jobs), strict=True):
            for name, measured in found.items():
                tried.append(
                    Tried(
                        cells[one.cell][0].stored(name),
                        epochs,
                        is_tuned,
                        **{key: measured[key] for key in ("size_bytes", "n", "n_lost", "n_gained")},
                        latency_s=self.seconds_of(one.cell, name)["seconds"] if is_timed else None,
                    )
                )
        return tried

    def _timed(self, tried: Sequence[Tried]) -> list[Tried]:
        """The same, with the time of one example for those that no other beats."""
        best_ones = {id(each) for each in front(tried)}

        def timed(each: Tried) -> Tried:
            if id(each) not in best_ones or each.latency_s is not None:
                return each
            return replace(each, latency_s=self.seconds_of(self.cell_of(each), each.candidate.values)["seconds"])

        return [timed(each) for each in tried]

    def _scan(self) -> None:
        """How much each layer alone can lose, and which way to spread zeros loses least at once; kept in a file."""
        kept = self.out / "sensitivity.json"
        if kept.exists():
            return
        with threads(self.n_jobs):
            write_json(kept, self._scanned())

    def _scanned(self) -> dict[str, Any]:
        module, data = self.ground.dense.load(self.out), self.ground.data
        picked = in_proportion(data.y_val, N_SCANNED)
        x, y = data.x_val[picked], data.y_val[picked]
        begun = time.perf_counter()
        accuracy(module, x, y)
        sizes = {layer.name: float(layer.n) for layer in layers(module) if layer.is_prunable}
        wanted_s = len(sizes) * len(SCANNED) * (time.perf_counter() - begun)
        share = min(1.0, SCAN_SHARE * self.ground.asked.max_time_s / wanted_s)
        picked = in_proportion(y, min(len(y), max(100, round(share * len(y)))))
        x, y = x[picked], y[picked]
        scanned = scan(module, LAMP, x, y, SCANNED)
        at = {}
        for name in SPREADS:
            pruned = self.ground.dense.load(self.out)
            Masks.make(pruned, spread_by(name, scanned, sizes)(SPREAD_AT)).apply(pruned)
            at[name] = accuracy(pruned, x, y).value
        spread = max(SPREADS, key=at.__getitem__)
        return {"n": len(y), "scan": scanned, "sizes": sizes, "one_shot": at, "at": SPREAD_AT, "spread": spread}
