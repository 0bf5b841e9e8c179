"""How good the embedded networks are, on faces and people that no training saw."""
