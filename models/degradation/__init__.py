"""What video, film, print and compression do to faces: for training, for evaluation and for trials.

`stills` works on single pictures with real encoders; all else works on batches of tensors.
"""
