"""Random one-place changes of real sources: each is ported as changed, or refused."""
