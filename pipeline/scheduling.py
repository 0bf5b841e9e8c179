"""The priority of this process's threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Whatever runs inside leaves threads with the scheduling that the calling one had.

    SVT-AV1, where root runs it, puts its own threads and the one that opens it at the highest real-time priority. All
    that is started later inherits that, and two busy threads of it lock everybody else out of a machine of two cores.
    """
    if not hasattr(os, "sched_getscheduler"):  # a matter of Linux alone
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), policy, parameters)
