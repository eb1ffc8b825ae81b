"""The metamorphic suite: other words for the same model give the same port."""
