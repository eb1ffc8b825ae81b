"""Measure throughput and latency of a port, engines side by side in one run.

Every engine gets the same random prompts and must make the same number of
tokens. Without --engine the bundled runtime is measured beside HuggingFace's
padded generate, without --model on about 100 million random parameters.
"""

import argparse
import contextlib
import json
import math
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

from porter.commands.options import add_trust, existing_file, model_folder, positive
from porter.console import print_table, say, working
from porter.gap import UsageError
from porter.output import write_json

JSON_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=Path, metavar="PORT.py")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument(
        "--engine",
        action="append",
        choices=["porter", "vllm", "hf"],
        help="may be repeated (default: hf and porter)",
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
    if arguments.model is not None:
        model_folder(arguments.model)
    shortest, longest = arguments.prompt_tokens
    if shortest > longest:
        raise UsageError("--prompt-tokens: the first length is above the second")
    with tempfile.TemporaryDirectory(prefix="porter-bench-") as scratch:
        model = arguments.model or _random_model(arguments, Path(scratch))
        facts = _measure(arguments, model)
    if arguments.json is not None:
        write_json(arguments.json, facts)
    if str(arguments.json) != "-":
        _show(facts)
    return 0


def _random_model(arguments: argparse.Namespace, folder: Path) -> Path:
    from porter.bench.random_model import write_random_model

    with working("making random weights"):
        write_random_model(arguments.port, folder, arguments.trust_remote_code)
    return folder


def _measure(arguments: argparse.Namespace, model: Path) -> dict[str, Any]:
    from porter.bench import Workload, measure
    from porter.bench.engines import ENGINES

    shortest, longest = arguments.prompt_tokens
    workload = Workload(
        _vocab_size(model), arguments.requests, shortest, longest, arguments.max_tokens
    )
    with working("measuring"), contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(
                ENGINES[name](arguments.port, model, arguments.trust_remote_code)
            )
            for name in arguments.engine or ["hf", "porter"]
        ]
        results = measure(engines, workload, arguments.repeats)
    return {
        "version": JSON_VERSION,
        "port": str(arguments.port),
        "model": str(arguments.model) if arguments.model else None,
        "parameters": _parameters(model),
        "requests": arguments.requests,
        "prompt_tokens": [len(prompt) for prompt in workload.prompts],
        "new_tokens": arguments.max_tokens,
        "machine": _machine(),
        "engines": [result.to_json() for result in results],
    }


def _vocab_size(model: Path) -> int:
    path = model / "config.json"
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["vocab_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no vocab_size in it") from error
    return int(size)


def _parameters(model: Path) -> int:
    """Number of elements in the checkpoint's safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                total += math.prod(file.get_slice(name).get_shape())
    return total


def _machine() -> dict[str, Any]:
    import torch

    try:
        cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpus = ""
    named = re.search(r"^model name\s*:\s*(.+)$", cpus, re.MULTILINE)
    return {
        "processor": named[1].strip() if named else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _show(facts: dict[str, Any]) -> None:
    first = facts["engines"][0]
    rows = [
        (
            engine["engine"],
            f"{engine['seconds']:.2f}",
            f"{engine['tokens_per_second']:.1f}",
            f"{engine['tokens_per_second'] / first['tokens_per_second']:.2f}",
            f"{engine['first_token_ms']:.1f}",
            f"{engine['next_token_ms']:.1f}",
            f"{engine['equal_prompts']}/{facts['requests']}",
        )
        for engine in facts["engines"]
    ]
    heads = ["engine", "s", "tokens/s", "ratio", "first ms", "next ms", "equal"]
    print_table(heads, rows, right=heads[1:])
    lengths, machine = facts["prompt_tokens"], facts["machine"]
    say(
        f"{facts['parameters'] / 1e6:.1f} million parameters, float32; "
        f"{machine['threads']} threads of {machine['processor']}\n"
        f"{facts['requests']} prompts of {min(lengths)} to {max(lengths)} tokens, "
        f"{facts['new_tokens']} new tokens each"
    )
