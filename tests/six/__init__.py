"""The acceptance matrix: six models, several configs each, one rank and two."""
