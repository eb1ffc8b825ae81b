"""Facts about a source: one abstract interpreter over the forward functions."""
