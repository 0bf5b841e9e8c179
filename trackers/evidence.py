"""How much an embedding says of who somebody is: its length, measured by that of a clear view.

Legend: D width of an embedding.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 200
"""Views whose lengths are the measure where the recogniser has none."""


class Evidence:
    """Measures embeddings of one recogniser. One owner."""

    def __init__(self, clear_norm: float = 0.0) -> None:
        """`clear_norm`: the recogniser's; without it the clearer views of the film are the measure."""
        self._clear_norm = clear_norm
        self._norms: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self, embedding: NDArray[np.float32]) -> None:
        """Takes the raw `embedding` (D,) of one view into account."""
        self._norms.append(float(np.linalg.norm(embedding)))

    def of(self, embedding: NDArray[np.float32]) -> float:
        """1 for a clear view, 0 for nothing; the sum of several raw embeddings (D,) has as much as all together."""
        clear = self._clear_norm or (float(np.quantile(self._norms, 0.75)) if self._norms else 0.0)
        norm = float(np.linalg.norm(embedding))
        return norm / clear if clear > 0 else float(norm > 0)
