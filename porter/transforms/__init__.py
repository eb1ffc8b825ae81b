"""The rewrites, one file each; their order is in `porter/pipeline.py`."""
