"""vLLM's layers by vLLM's names: what a ported model file imports."""
