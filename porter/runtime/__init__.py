"""The bundled engine: runs generated vLLM model files with vLLM's semantics."""
