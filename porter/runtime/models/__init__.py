"""What vLLM gives model files beside layers: weight loading, stages, interfaces."""
