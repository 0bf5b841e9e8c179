"""How good whole runs are: the same clips through several settings, measured frame by frame and over time."""
