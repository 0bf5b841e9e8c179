"""Samples: crops out of the decoder's own planes, restored faces back into them, and where they lie."""
