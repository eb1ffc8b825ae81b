"""porter: compiles a HuggingFace `modeling_*.py` into a vLLM model file and verifies it."""

__version__ = "0.1.0"
