"""Prints the throughput of the bundled runtime beside HuggingFace's, in one run.

    python figures/throughput.py

One model of about 100 million random parameters, 32 prompts of 16 to 256 tokens, 64 new
tokens each. The checkpoint and the port are made in a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from porter.cli import main as porter
from porter.console import say

CONFIG = LlamaConfig(
    vocab_size=16000,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        model_dir, port = Path(folder, "model"), Path(folder, "llama.py")
        torch.manual_seed(0)
        model = LlamaForCausalLM(CONFIG)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        say(f"{millions:.0f} million random parameters, float32")
        model.save_pretrained(model_dir)
        del model
        if code := porter(["convert", "llama", "-o", str(port)]):
            return code
        return porter(["bench", str(port), "--model", str(model_dir), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
