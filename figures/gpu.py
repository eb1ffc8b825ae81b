"""All figures of a GPU in one run of at most nine minutes on an H200.

    python figures/gpu.py [--port PORT.py] [--json FILE] [--minutes N] [--runs NAME ...]

Ports of the shapes of Qwen3-0.6B and Qwen3-8B (random weights) on the bundled runtime, in
vLLM, beside vLLM's own model and HuggingFace's generate, and the kernels beside
FlashInfer, FlashAttention-3, vLLM's and torch's. Peers that aren't installed are left out
and say so. What no minute is left for is said to be unmeasured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "vocab_size": 151936,
}
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "tie_word_embeddings": False,
    },
}
# What is measured, in this order, and about how many seconds each takes; what comes
# last is given up when time runs out.
RUNS = [
    ("Qwen3-0.6B", "porter", 45),
    ("Qwen3-8B", "porter", 60),
    ("kernels", "", 75),
    ("Qwen3-0.6B", "vllm-own", 105),
    ("Qwen3-8B", "vllm-own", 125),
    ("Qwen3-0.6B", "hf", 35),
    ("Qwen3-0.6B", "vllm", 105),
    ("Qwen3-8B", "hf", 45),
    ("Qwen3-8B", "vllm", 125),
]
# Short answers favour HuggingFace's generate: it makes as many tokens for all as the
# longest answer has, and shorter sequences are quicker. The full ones take minutes.
ANSWERS = {"hf": (64, 128)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--port", type=Path, help="default: converted from transformers"
    )
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9.0)
    names = [_name(shape, engine) for shape, engine, _ in RUNS]
    parser.add_argument(
        "--runs", nargs="+", choices=names, default=names, metavar="NAME",
        help="only these: " + ", ".join(names),
    )  # fmt: skip
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    facts: dict[str, Any] = {"models": {}, "unmeasured": []}
    with tempfile.TemporaryDirectory(prefix="porter-figures-") as scratch:
        port = arguments.port or _convert(Path(scratch))
        for shape, engine, seconds in RUNS:
            name = _name(shape, engine)
            if name not in arguments.runs:
                continue
            if time.monotonic() + seconds > end:
                facts["unmeasured"].append(name)
                continue
            if shape == "kernels":
                facts["kernels"] = _bench(["kernels"], end)
                print("kernels", facts["kernels"].get("failed", "done"), flush=True)
                continue
            folder = Path(scratch) / shape
            folder.mkdir(exist_ok=True)
            config = {**QWEN3, **SHAPES[shape]}
            (folder / "config.json").write_text(json.dumps(config))
            began = time.monotonic()
            result = _measure(port, folder, engine, end)
            result["took_s"] = round(time.monotonic() - began, 1)
            facts["models"].setdefault(shape, {})[engine] = result
            print(shape, engine, json.dumps(result), flush=True)
            arguments.json.write_text(json.dumps(facts, indent=1))
        facts["floors_ms"] = _floors(Path(scratch), facts)
    facts["figures"] = figures(facts)
    arguments.json.write_text(json.dumps(facts, indent=1))
    _show(facts)


def _name(shape: str, engine: str) -> str:
    return f"{shape} {engine}".strip()


def _convert(folder: Path) -> Path:
    port = folder / "qwen3.py"
    command = [sys.executable, "-m", "porter", "convert", "qwen3", "-o", str(port)]
    subprocess.run(command, check=True, cwd=ROOT)
    return port


def _measure(port: Path, model: Path, engine: str, end: float) -> dict[str, Any]:
    facts = _bench(
        [port.resolve(), "--model", model, "--engine", engine, "--load-format", "dummy",
         "--dtype", "bfloat16", "--requests", 256, "--prompt-tokens", 100, 1024,
         "--max-tokens", *ANSWERS.get(engine, (100, 1024)),
         "--first-tokens", 8192, "--alone-tokens", 1024, "--max-model-len", 9216,
         "--repeats", 1 if engine == "hf" else 2],
        end,
    )  # fmt: skip
    return facts["engines"][0] if "engines" in facts else facts


def _bench(arguments: list[Any], end: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "porter", "bench", *map(str, arguments)]
    try:
        done = subprocess.run(
            [*command, "--json", "-"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=max(1.0, end - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        return {"failed": "no time was left"}
    if done.returncode or "{" not in done.stdout:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"failed": said[:400]}
    # Libraries write to standard output too; the facts begin a line of their own.
    start = done.stdout.index("{\n")
    return json.JSONDecoder().raw_decode(done.stdout[start:])[0]


def _floors(folder: Path, facts: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a token at the bandwidth of this run's copy."""
    from porter.bench.floor import decode_bytes

    rate = facts.get("kernels", {}).get("ceilings", {}).get("bytes_per_second")
    if rate is None:
        return {}
    shapes = [shape for shape in SHAPES if (folder / shape).is_dir()]
    context = 1024 + 128
    return {
        shape: decode_bytes(folder / shape, "bfloat16", context) / rate * 1e3
        for shape in shapes
    }


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """Ratios, ours over theirs; for the time to the first token theirs is the divisor."""
    found: dict[str, float] = dict(facts.get("kernels", {}).get("summary", {}))
    for shape, engines in facts["models"].items():
        done = {n: e for n, e in engines.items() if "failed" not in e}
        ours = done.get("porter")
        if ours is None:
            continue
        if shape in facts["floors_ms"]:
            share = facts["floors_ms"][shape] / ours["next_token_ms"]
            found[f"{shape} decode alone, of the floor"] = share
        for peer in ("vllm-own", "hf"):
            if peer in done:
                ratio = ours["tokens_per_second"] / done[peer]["tokens_per_second"]
                found[f"{shape} throughput / {peer}"] = ratio
                found[f"{shape} first token / {peer}"] = (
                    ours["first_token_ms"] / done[peer]["first_token_ms"]
                )
        if "vllm" in done and "vllm-own" in done:
            found[f"{shape} port in vLLM / vLLM's own"] = (
                done["vllm"]["tokens_per_second"]
                / done["vllm-own"]["tokens_per_second"]
            )
    return found


def _show(facts: dict[str, Any]) -> None:
    from porter.commands.bench import show_kernels
    from porter.console import print_table, say

    if "rows" in facts.get("kernels", {}):
        show_kernels(facts["kernels"])
    rows = []
    for shape, engines in facts["models"].items():
        for engine, e in engines.items():
            if "failed" in e:
                rows.append((shape, engine, "-", "-", "-"))
                say(f"{shape} {engine}: {e['failed']}")
                continue
            cells = (e["tokens_per_second"], e["first_token_ms"], e["next_token_ms"])
            rows.append((shape, engine, *(f"{cell:.2f}" for cell in cells)))
    heads = ["model", "engine", "tokens/s", "first ms (8k)", "next ms (1k)"]
    print_table(heads, rows, right=heads[2:])
    for name, value in facts["figures"].items():
        say(f"{name}: {value:.3f}")
    if facts["unmeasured"]:
        say("unmeasured for want of time: " + ", ".join(facts["unmeasured"]))


if __name__ == "__main__":
    main()
