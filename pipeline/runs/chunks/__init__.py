"""A film in chunks that survive an interruption and can be restored by several processes."""
