"""Where the time of an evaluation goes."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Stopwatch:
    """Adds up the seconds that are spent for each purpose, in the order of their first use."""

    def __init__(self):
        self._seconds = collections.defaultdict(float)

    @contextlib.contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        """Counts the time of a `with` block, for one purpose at a time."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[purpose] += time.perf_counter() - begin

    def call(self, purpose: str, function: Callable, *arguments: Any) -> Any:
        """Counts the time of a call, and returns its result."""
        with self.on(purpose):
            return function(*arguments)

    def each(self, purpose: str, values: Iterable) -> Iterator:
        """Yields values, and counts the time that it takes to make them."""
        values = iter(values)
        while True:
            with self.on(purpose):
                try:
                    value = next(values)
                except StopIteration:
                    return
            yield value

    def __str__(self) -> str:
        spent = {name: seconds for name, seconds in self._seconds.items() if seconds >= 0.5}
        parts = [f"{name} {seconds:.0f} s" for name, seconds in spent.items()]
        return f"Time: {', '.join(parts)}; together {sum(self._seconds.values()):.0f} s."
