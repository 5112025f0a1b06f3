"""Two things timed side by side."""

import secateurs.measure.seconds as seconds_module
from secateurs.measure.seconds import side_by_side


def test_calls_are_interleaved_and_the_order_alternates() -> None:
    calls: list[str] = []
    first, second, _ = side_by_side(lambda: calls.append("a"), lambda: calls.append("b"), n_pairs=4, warmup=2)
    assert "".join(calls) == "abab" + "ab" + "ba" + "ab" + "ba"
    assert len(first) == len(second) == 4
    assert min(first + second) >= 0


def test_seconds_belong_to_the_function_that_took_them(monkeypatch: object) -> None:
    clock = [0.0]
    monkeypatch.setattr(seconds_module.time, "perf_counter", lambda: clock[0])  # type: ignore[attr-defined]

    def takes(duration: float) -> None:
        clock[0] += duration

    slow, fast, ratio = side_by_side(lambda: takes(3.0), lambda: takes(1.5), n_pairs=6)
    assert slow == [3.0] * 6
    assert fast == [1.5] * 6
    assert (ratio.mean, ratio.low, ratio.high, ratio.n) == (2.0, 2.0, 2.0, 6)
