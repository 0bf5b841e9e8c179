"""Quality of whole runs: clips through several settings, measured frame by frame and over time."""
