"""porter compiles a HuggingFace model into a vLLM model file and verifies it."""

__version__ = "0.1.0"
