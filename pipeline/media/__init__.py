"""Media files: probing, decoding, encoding, photos."""
