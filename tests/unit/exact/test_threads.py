"""Threads: results in order, few of them at a time, and nothing that goes on when nobody waits for it."""

import time

import pytest

from secateurs.exact.threads import flow, spread


@pytest.mark.parametrize("n", ["1", "3"])
def test_results_come_in_order(monkeypatch, n):
    monkeypatch.setenv("SECATEURS_THREADS", n)

    def slow_first(i):
        time.sleep(0.01 * (i == 0))
        return i * i

    assert spread(slow_first, range(50)) == [i * i for i in range(50)]


def test_few_items_are_made_ahead(monkeypatch):
    monkeypatch.setenv("SECATEURS_THREADS", "2")
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    for i in flow(lambda item: item, items()):
        assert len(made) <= i + 6


def test_no_task_goes_on_when_it_is_closed(monkeypatch):
    monkeypatch.setenv("SECATEURS_THREADS", "2")
    ended = []

    def task(i):
        if i:
            time.sleep(0.05)
            ended.append(i)

    results = flow(task, range(100))
    next(results)
    results.close()
    n = len(ended)
    time.sleep(0.2)
    assert len(ended) == n < 10


def test_the_first_error_is_raised(monkeypatch):
    monkeypatch.setenv("SECATEURS_THREADS", "2")
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(flow(lambda i: 1 // (i - 3), range(100)))
    assert found == [-1, -1, -1]
