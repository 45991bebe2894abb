"""Seconds by purpose."""

import time

import pytest

from cwvae.evaluation.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds
        return seconds

    return move


def test_time_is_added_up_by_purpose(clock):
    watch = Stopwatch()
    with watch.on("a"):
        clock(2)
    clock(100)  # Not counted.
    assert watch.call("b", clock, 3) == 3
    values = watch.each("a", (clock(seconds) for seconds in (1, 4)))
    assert [clock(10) for _ in values] == [10, 10]
    with watch.on("short"):
        clock(0.4)
    assert str(watch) == "Time: a 7 s, b 3 s; together 10 s."


def test_time_counts_if_a_block_fails(clock):
    watch = Stopwatch()

    def fail():
        clock(2)
        raise KeyError

    with pytest.raises(KeyError):
        watch.call("a", fail)
    assert str(watch) == "Time: a 2 s; together 2 s."
