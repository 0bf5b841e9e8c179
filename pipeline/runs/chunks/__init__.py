"""Long runs: a film in chunks that survive an interruption, in several processes, and several films in a row."""
