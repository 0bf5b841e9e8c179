"""`klein`: FLUX.2 klein 4B as a restorer, with the adapters made for it."""

from models.iconface.klein.restorer import KleinRestorer

__all__ = ["KleinRestorer"]
