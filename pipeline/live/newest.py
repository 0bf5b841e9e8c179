"""Hand-over of the newest frame from one thread to another: nothing queues, so delay cannot grow."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Holds one item; a next one takes the place of one that was not taken yet."""

    def __init__(self) -> None:
        self.replaced = 0
        """Items that nobody took in time."""
        self._item: T | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._woken = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Offers `item`."""
        with self._changed:
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Says that no more comes; `error` is raised where the next item is asked for."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def wake(self) -> None:
        """Lets `get` return at once, now or when it is called next: there is something else to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | None:
        """The newest item, waited for up to `timeout` seconds; None if none came. Raises StopIteration at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._woken or self._item is not None, timeout)
            self._woken = False
            item, self._item = self._item, None
            if item is None and self._ended:
                raise self._error if self._error is not None else StopIteration
            return item
