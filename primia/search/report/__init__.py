"""The page of a sweep, its figures, and how important each setting was."""
