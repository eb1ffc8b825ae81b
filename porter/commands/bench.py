"""Measure throughput and latency of a port, engines side by side in one run.

Every engine gets the same random prompts and must make the same number of
tokens. Without --engine the bundled runtime is measured beside HuggingFace's
padded generate.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from porter.commands.options import add_trust, existing_file, model_folder, positive
from porter.console import print_table, say, working
from porter.gap import UsageError
from porter.output import write_json

JSON_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=Path, metavar="PORT.py")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--engine",
        action="append",
        choices=["porter", "vllm", "hf"],
        help="may be repeated (default: porter and hf)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="'-': stdout")
    parser.add_argument("--requests", type=positive, default=32, metavar="N")
    parser.add_argument(
        "--prompt-tokens",
        type=positive,
        nargs=2,
        default=(16, 256),
        metavar=("MIN", "MAX"),
    )
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N")
    parser.add_argument("--repeats", type=positive, default=2, metavar="N")
    add_trust(parser)


def run(arguments: argparse.Namespace) -> int:
    existing_file(arguments.port, "port")
    model_folder(arguments.model)
    shortest, longest = arguments.prompt_tokens
    if shortest > longest:
        raise UsageError("--prompt-tokens: the first length is above the second")
    vocab_size = _vocab_size(arguments.model)

    from porter.bench import Workload, measure
    from porter.bench.engines import open_engine

    workload = Workload(
        vocab_size, arguments.requests, shortest, longest, arguments.max_tokens
    )
    results = []
    for name in arguments.engine or ["porter", "hf"]:
        with (
            working(f"measuring {name}"),
            open_engine(
                name, arguments.port, arguments.model, arguments.trust_remote_code
            ) as engine,
        ):
            results.append(measure(engine, workload, arguments.repeats).to_json())
    facts = {
        "version": JSON_VERSION,
        "port": str(arguments.port),
        "model": str(arguments.model),
        "requests": arguments.requests,
        "prompt_tokens": [len(prompt) for prompt in workload.prompts],
        "new_tokens": arguments.max_tokens,
        "machine": _machine(),
        "engines": results,
    }
    if arguments.json is not None:
        write_json(arguments.json, facts)
    if str(arguments.json) != "-":
        _show(facts)
    return 0


def _vocab_size(model: Path) -> int:
    path = model / "config.json"
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["vocab_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no vocab_size in it") from error
    return int(size)


def _machine() -> dict[str, Any]:
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _show(facts: dict[str, Any]) -> None:
    slowest = min(engine["tokens_per_second"] for engine in facts["engines"])
    rows = [
        (
            engine["engine"],
            engine["seconds"],
            engine["tokens_per_second"],
            f"{engine['tokens_per_second'] / slowest:.2f}",
            engine["first_token_ms"],
            engine["next_token_ms"],
        )
        for engine in facts["engines"]
    ]
    heads = ["engine", "s", "new tokens/s", "ratio", "first token ms", "next token ms"]
    print_table(heads, rows, right=heads[1:])
    lengths, machine = facts["prompt_tokens"], facts["machine"]
    say(
        f"{facts['requests']} requests of {min(lengths)} to {max(lengths)} tokens, "
        f"{facts['new_tokens']} new tokens each; {machine['threads']} threads"
    )
