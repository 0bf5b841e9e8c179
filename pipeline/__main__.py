"""`python -m pipeline`."""

import sys

try:
    from pipeline.cli import main

    code = main()
except KeyboardInterrupt:
    # Before the command had begun.
    print("interrupted; no unfinished file was left", file=sys.stderr)
    code = 130
sys.exit(code)
