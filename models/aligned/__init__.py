"""`aligned`: restores a face with the person's own views laid onto it pixel by pixel."""
