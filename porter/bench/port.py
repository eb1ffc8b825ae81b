"""Measure the engines of one port: in turns here, or each in its own process on a GPU.

A GPU engine takes the memory it finds, so two can't live beside each other.
"""

import contextlib
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from porter.bench.engines import ENGINES, Setup
from porter.bench.measurement import measure
from porter.bench.workload import Workload


def default_engines(device: str) -> list[str]:
    """On a CPU HuggingFace's and ours; on a GPU also vLLM where it is installed."""
    if device == "cpu":
        return ["hf", "porter"]
    there = importlib.util.find_spec("vllm") is not None
    return ["porter", *(["vllm", "vllm-own"] if there else []), "hf"]


def measure_port(
    setup: Setup, workload: Workload, names: list[str], repeats: int
) -> dict[str, Any]:
    """What `porter bench PORT --json` writes, but for its version."""
    facts = circumstances(setup, workload)
    if setup.device == "cpu":
        with contextlib.ExitStack() as stack:
            engines = [stack.enter_context(ENGINES[name](setup)) for name in names]
            results = measure(engines, workload, repeats)
        facts["engines"] = [result.to_json() for result in results]
        return facts
    if len(names) == 1:
        with ENGINES[names[0]](setup) as engine:
            result = measure([engine], workload, repeats)[0].to_json()
        facts["engines"] = [{**result, "equal_prompts": None}]
        facts["parameters"] = 0  # whoever puts the processes together counts them
        return facts
    facts["engines"] = [_in_a_process(setup, workload, n, repeats) for n in names]
    from porter.bench.floor import decode_bytes, parameters
    from porter.bench.gpu_clock import ceilings

    facts["parameters"] = parameters(setup.model)
    facts["ceilings"] = ceilings()
    context = (
        len(workload.single(workload.alone_tokens)) + min(workload.new_tokens, 256) // 2
    )
    moved = decode_bytes(setup.model, setup.dtype, context)
    facts["next_token_floor_ms"] = moved / facts["ceilings"]["bytes_per_second"] * 1e3
    return facts


def circumstances(setup: Setup, workload: Workload) -> dict[str, Any]:
    """What the figures are of: the model, the requests, the machine."""
    facts: dict[str, Any] = {
        "port": str(setup.port),
        "model": str(setup.model),
        "dtype": setup.dtype,
        "device": setup.device,
        "requests": workload.requests,
        "prompt_tokens": [len(prompt) for prompt in workload.prompts],
        "new_tokens": workload.counts,
        "machine": machine(setup.device),
    }
    if setup.device == "cpu":
        facts["parameters"] = _stored_parameters(setup.model)
    return facts


def _in_a_process(
    setup: Setup, workload: Workload, name: str, repeats: int
) -> dict[str, Any]:
    command: list[Any] = [
        sys.executable, "-m", "porter", "bench", setup.port, "--model", setup.model,
        "--engine", name, "--json", "-", "--requests", workload.requests,
        "--prompt-tokens", workload.shortest, workload.longest,
        "--max-tokens", min(workload.counts), workload.new_tokens,
        "--repeats", repeats, "--dtype", setup.dtype, "--device", setup.device,
        "--load-format", setup.load_format,
    ]  # fmt: skip
    for option, value in (
        ("--first-tokens", workload.first_tokens),
        ("--alone-tokens", workload.alone_tokens),
        ("--max-model-len", setup.max_model_len),
    ):
        command += [option, value] if value is not None else []
    command += ["--trust-remote-code"] if setup.trust_remote_code else []
    # This process's porter, wherever it was started.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"engine": name, "failed": said[:300]}
    text = done.stdout[done.stdout.index("{") :]
    return json.JSONDecoder().raw_decode(text)[0]["engines"][0]


def _stored_parameters(model: Path) -> int:
    """Number of elements in the checkpoint's safetensors files."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                total += math.prod(file.get_slice(name).get_shape())
    return total


def machine(device: str) -> dict[str, Any]:
    """name: of the processor with its threads, or of the GPU."""
    import torch

    if device == "cuda":
        return {"name": torch.cuda.get_device_name(), "torch": torch.__version__}
    try:
        cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpus = ""
    named = re.search(r"^model name\s*:\s*(.+)$", cpus, re.MULTILINE)
    processor = named[1].strip() if named else platform.machine()
    threads = torch.get_num_threads()
    return {
        "name": f"{threads} threads of {processor}",
        "processor": processor,
        "threads": threads,
        "torch": torch.__version__,
    }
