"""Real sources, mutated or not, as runnable HF models on tiny seeded checkpoints."""
