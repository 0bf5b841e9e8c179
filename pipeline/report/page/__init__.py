"""The report of a run as one HTML page that needs nothing else: `--report FILE.html`."""
