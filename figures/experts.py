"""Throughput of a mixture of experts of Mixtral's shape, beside HuggingFace's generate.

Prints `porter bench`'s table for about 200 million random parameters, both engines in one
run on this machine's CPU.

    python figures/experts.py [--requests N] [--max-tokens N] [--repeats N]

The best of several runs of each, which take turns: on a machine that others share, the
one that was disturbed least.
"""

import argparse
import tempfile
from pathlib import Path

SIZES = {
    "vocab_size": 16000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 13,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 1024,
    "sliding_window": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def main() -> None:
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    from porter import cli

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", default="32")
    parser.add_argument("--max-tokens", default="64")
    parser.add_argument("--repeats", default="4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port, model = Path(folder) / "mixtral.py", Path(folder) / "model"
        torch.manual_seed(0)
        reference = MixtralForCausalLM(MixtralConfig(**SIZES)).float()
        print(f"{sum(p.numel() for p in reference.parameters()):,} parameters")
        reference.save_pretrained(model)
        del reference
        cli.main(["convert", "mixtral", "-o", str(port)])
        cli.main(
            ["bench", str(port), "--model", str(model), "--engine", "porter"]
            + ["--engine", "hf", "--requests", options.requests]
            + ["--max-tokens", options.max_tokens, "--repeats", options.repeats]
        )


if __name__ == "__main__":
    main()
