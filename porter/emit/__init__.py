"""From the rewritten graph to the text of a vLLM model file."""
