"""`python -m pipeline.serve.child ARGUMENTS`: the ordinary command, which ends when its standard input does.

So it is cancelled in the same way on every system, and does not outlive the server, however that ends.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time

from pipeline.cli import main
from pipeline.errors import INTERRUPTED

_GRACE_SECONDS = 8.0


def _end_with_input() -> None:
    # Not `sys.stdin`, whose lock would break the interpreter's own end.
    while os.read(0, 1 << 12):
        pass
    # As Ctrl-C does, so that nothing unfinished is left.
    _thread.interrupt_main(signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)  # a call that goes on beside must not stall
    sys.exit(main())
