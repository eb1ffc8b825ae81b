"""Measure throughput and latency of a port, engines side by side in one run.

Every engine gets the same random prompts and must make the same number of
tokens. Without --engine the bundled runtime is measured beside HuggingFace's
padded generate, without --model on about 100 million random parameters. On a
GPU each engine has a process of its own, and vLLM is measured where it is
installed: the port in it (vllm) and its own model (vllm-own).

On a CPU --engine vllm alone measures the port in vLLM beside vLLM's own model,
where it has one, and vLLM's Transformers backend, and counts what each fuses.

porter bench kernels measures a GPU's kernels for attention and for experts
beside FlashInfer, FlashAttention-3, vLLM and torch, and the machine's ceilings.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.commands.options import (
    add_device,
    add_trust,
    existing_file,
    model_folder,
    positive,
)
from porter.console import print_table, say, working
from porter.gap import UsageError
from porter.output import write_json

if TYPE_CHECKING:
    from porter.bench.engines import Setup
    from porter.bench.workload import Workload

JSON_VERSION = 2
ENGINES = ("porter", "vllm", "vllm-own", "hf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("port", type=Path, metavar="PORT.py|kernels")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument(
        "--engine",
        action="append",
        choices=ENGINES,
        help="may be repeated (default: hf and porter; on a GPU all that are there)",
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
    parser.add_argument(
        "--max-tokens",
        type=positive,
        nargs="+",
        default=[64],
        metavar="N",
        help="new tokens of each request, or the least and the most",
    )
    parser.add_argument(
        "--first-tokens", type=positive, metavar="N", help="prompt timed to its first"
    )
    parser.add_argument(
        "--alone-tokens", type=positive, metavar="N", help="prompt timed after that"
    )
    parser.add_argument("--repeats", type=positive, default=2, metavar="N")
    parser.add_argument(
        "--eager", action="store_true", help="--engine vllm: without torch.compile"
    )
    parser.add_argument("--dtype", help="default: float32, on a GPU bfloat16")
    add_device(parser, "default: a GPU where there is one")
    parser.add_argument("--load-format", choices=["auto", "dummy"], default="auto")
    parser.add_argument("--max-model-len", type=positive, metavar="N")
    add_trust(parser)


def run(arguments: argparse.Namespace) -> int:
    if str(arguments.port) == "kernels":
        return _run_kernels(arguments)
    existing_file(arguments.port, "port")
    if arguments.model is not None:
        model_folder(arguments.model)
    shortest, longest = arguments.prompt_tokens
    if shortest > longest:
        raise UsageError("--prompt-tokens: the first length is above the second")
    if (
        len(arguments.max_tokens) > 2
        or arguments.max_tokens[0] > arguments.max_tokens[-1]
    ):
        raise UsageError("--max-tokens: one number, or the least and the most")
    with tempfile.TemporaryDirectory(prefix="porter-bench-") as scratch:
        model = arguments.model or _random_model(arguments, Path(scratch))
        facts, show = _measure(arguments, model)
    if arguments.json is not None:
        write_json(arguments.json, facts)
    if str(arguments.json) != "-":
        show(facts)
    return 0


def _run_kernels(arguments: argparse.Namespace) -> int:
    import torch

    from porter.gap import CannotRun

    if not torch.cuda.is_available():
        raise CannotRun("porter bench kernels needs a GPU")
    from porter.bench.kernels import measure_kernels

    with working("measuring kernels"):
        facts = {"version": JSON_VERSION, "gpu": torch.cuda.get_device_name()}
        facts.update(measure_kernels())
    if arguments.json is not None:
        write_json(arguments.json, facts)
    if str(arguments.json) != "-":
        show_kernels(facts)
    return 0


def _random_model(arguments: argparse.Namespace, folder: Path) -> Path:
    from porter.bench.random_model import write_random_model

    with working("making random weights"):
        write_random_model(arguments.port, folder, arguments.trust_remote_code)
    return folder


def _measure(
    arguments: argparse.Namespace, model: Path
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """The JSON of the run, and what prints it."""
    from porter.bench.port import default_engines, measure_port
    from porter.bench.vllm_figures import measure_vllm, show_vllm

    setup, workload = _setup(arguments, model), _workload(arguments, model)
    names = arguments.engine or default_engines(setup.device)
    show = show_port
    with working("measuring"):
        if names == ["vllm"] and setup.device == "cpu":
            show = show_vllm
            facts = measure_vllm(setup, workload, arguments.repeats, arguments.eager)
        else:
            facts = measure_port(setup, workload, names, arguments.repeats)
    given = arguments.model is not None
    return {"version": JSON_VERSION, **facts, "given_model": given}, show


def _setup(arguments: argparse.Namespace, model: Path) -> "Setup":
    import torch

    from porter.bench.engines import Setup

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Setup(
        arguments.port,
        model,
        arguments.trust_remote_code,
        arguments.dtype or ("bfloat16" if device == "cuda" else "float32"),
        device,
        arguments.load_format,
        arguments.max_model_len,
    )


def _workload(arguments: argparse.Namespace, model: Path) -> "Workload":
    from porter.bench.workload import Workload

    return Workload(
        vocab_size(model),
        arguments.requests,
        shortest=arguments.prompt_tokens[0],
        longest=arguments.prompt_tokens[1],
        new_tokens=arguments.max_tokens[-1],
        least_new_tokens=arguments.max_tokens[0],
        first_tokens=arguments.first_tokens,
        alone_tokens=arguments.alone_tokens,
    )


def vocab_size(model: Path) -> int:
    import json

    path = model / "config.json"
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["vocab_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no vocab_size in it") from error
    return int(size)


def show_port(facts: dict[str, Any]) -> None:
    measured = [e for e in facts["engines"] if "failed" not in e]
    rows = []
    for engine in facts["engines"]:
        if "failed" in engine:
            rows.append((engine["engine"], "-", "-", "-", "-", "-", "-"))
            continue
        ratio = engine["tokens_per_second"] / measured[0]["tokens_per_second"]
        equal = engine["equal_prompts"]
        rows.append(
            (
                engine["engine"],
                f"{engine['seconds']:.2f}",
                f"{engine['tokens_per_second']:.1f}",
                f"{ratio:.2f}",
                f"{engine['first_token_ms']:.1f}",
                f"{engine['next_token_ms']:.2f}",
                "-" if equal is None else f"{equal}/{facts['requests']}",
            )
        )
    heads = ["engine", "s", "tokens/s", "ratio", "first ms", "next ms", "equal"]
    print_table(heads, rows, right=heads[1:])
    for engine in facts["engines"]:
        if "failed" in engine:
            say(f"{engine['engine']}: {engine['failed']}")
    say_circumstances(facts)
    floor = facts.get("next_token_floor_ms")
    if floor is not None:
        say(
            f"floor of a token alone: {floor:.2f} ms, at the "
            f"{facts['ceilings']['bytes_per_second'] / 1e12:.2f} TB/s of a copy here"
        )


def say_circumstances(facts: dict[str, Any]) -> None:
    """Under a table: of what model, on what machine, what was asked."""
    lengths, counts = facts["prompt_tokens"], facts["new_tokens"]
    say(
        f"{facts['parameters'] / 1e6:.1f} million parameters, {facts['dtype']}; "
        f"{facts['machine']['name']}\n"
        f"{facts['requests']} prompts of {min(lengths)} to {max(lengths)} tokens, "
        f"{min(counts)} to {max(counts)} new tokens each"
    )


def show_kernels(facts: dict[str, Any]) -> None:
    limits = facts["ceilings"]
    say(
        f"{facts['gpu']}: copy {limits['bytes_per_second'] / 1e12:.2f} TB/s, "
        f"bf16 product {limits['flops_per_second'] / 1e12:.0f} TFLOP/s"
    )
    for kernel, rows in itertools.groupby(facts["rows"], key=itemgetter("kernel")):
        say("")
        _show_kernel(kernel, list(rows))
    say("")
    failed = {
        name: result["failed"]
        for row in facts["rows"]
        for name, result in row["engines"].items()
        if "failed" in result
    }
    for name, why in failed.items():
        say(f"{name}: {why}")
    for name, value in facts["summary"].items():
        say(f"{name} {value:.3f}")


def _show_kernel(kernel: str, rows: list[dict[str, Any]]) -> None:
    """Microseconds of each case, only with engines that have the kernel."""
    names = list(dict.fromkeys(name for row in rows for name in row["engines"]))
    cells = []
    for row in rows:
        times = []
        for name in names:
            result = row["engines"].get(name, {})
            good = "us" in result and "failed" not in result
            times.append(f"{result['us']:.1f}" if good else "-")
        share = row["floor_us"] / row["engines"]["porter"]["us"]
        cells.append((row["case"], f"{row['floor_us']:.1f}", *times, f"{share:.2f}"))
    heads = [f"{kernel}, us", "floor", *names, "floor/porter"]
    print_table(heads, cells, right=heads[1:])
