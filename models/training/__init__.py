"""Training of the embedded networks."""
