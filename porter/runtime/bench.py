"""Throughput of a port on several engines, measured in one run.

The workload: 32 prompts of 16 to 256 random tokens, 64 new tokens each, greedy. The
bundled runtime batches continuously; transformers' generate pads the batch.
"""

import ast
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from porter.gap import CannotRun, UsageError
from porter.runtime.llm import LLM, SamplingParams

# Sizes that give about 100 M parameters; a config takes those it knows.
_SIZES: dict[str, Any] = {
    "vocab_size": 16000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "ffn_dim": 3072,
    "word_embed_proj_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Workload:
    """prompts: token ids. max_tokens: new tokens for each."""

    prompts: list[list[int]]
    max_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def new_tokens(self) -> int:
        return len(self.prompts) * self.max_tokens


def make_workload(
    vocab_size: int,
    num_prompts: int = 32,
    shortest: int = 16,
    longest: int = 256,
    max_tokens: int = 64,
    seed: int = 0,
) -> Workload:
    """Prompts whose lengths are spread evenly from shortest to longest, shuffled."""
    rng = random.Random(seed)
    steps = max(1, num_prompts - 1)
    lengths = [shortest + (longest - shortest) * i // steps for i in range(num_prompts)]
    rng.shuffle(lengths)
    prompts = [[rng.randrange(3, vocab_size) for _ in range(n)] for n in lengths]
    return Workload(prompts, max_tokens)


def bench(
    port: str | Path,
    model_dir: str | Path | None = None,
    *,
    engines: tuple[str, ...] = ("hf", "porter"),
    model_type: str | None = None,
    repeats: int = 2,
    num_prompts: int = 32,
    longest: int = 256,
    max_tokens: int = 64,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the workload on each engine; the best of `repeats` runs counts.

    model_dir: a checkpoint, or None for about 100 M random parameters in the shape
    that the port was made from. model_type: its transformers type, when the port's
    header doesn't tell. say: gets a line of progress at a time.

    Returns a JSON-able dict: `workload`, `machine`, `model`, `engines` (name ->
    seconds, new_tokens_per_second, total_tokens_per_second), `ratio` (porter over
    hf in new tokens a second), `tokens_equal` (prompts whose tokens agree).
    Raises UsageError on an unknown engine, CannotRun where one isn't installed.
    """
    for engine in engines:
        if engine not in _ENGINES:
            raise UsageError(f"no engine {engine!r}: {', '.join(_ENGINES)}")
    if not Path(port).is_file():
        raise UsageError(f"{port}: no such port")
    with tempfile.TemporaryDirectory(prefix="porter-bench-") as folder:
        if model_dir is None:
            say("making random weights")
            model_dir = Path(folder)
            _write_random_model(model_dir, model_type or model_type_of(port))
        runners = {
            engine: _ENGINES[engine](Path(port), Path(model_dir), trust_remote_code)
            for engine in engines
        }
        workload = make_workload(
            vocab_size_of(Path(model_dir)),
            num_prompts=num_prompts,
            longest=longest,
            max_tokens=max_tokens,
        )
        seconds: dict[str, float] = {}
        tokens: dict[str, list[list[int]]] = {}
        for run in range(repeats):  # the engines take turns, so that load is shared
            for engine, runner in runners.items():
                say(f"run {run + 1} of {repeats}: {engine}")
                started = time.perf_counter()
                tokens[engine] = runner(workload)
                took = time.perf_counter() - started
                seconds[engine] = min(took, seconds.get(engine, took))
        size = _parameters(Path(model_dir))
    return _report(port, workload, size, seconds, tokens)


def _report(
    port: str | Path,
    workload: Workload,
    parameters: int,
    seconds: dict[str, float],
    tokens: dict[str, list[list[int]]],
) -> dict[str, Any]:
    total = workload.prompt_tokens + workload.new_tokens
    result: dict[str, Any] = {
        "version": 1,
        "port": str(port),
        "model": {"parameters": parameters, "dtype": "float32"},
        "workload": {
            "prompts": len(workload.prompts),
            "prompt_tokens": workload.prompt_tokens,
            "new_tokens": workload.new_tokens,
        },
        "machine": {
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "engines": {
            name: {
                "seconds": round(took, 3),
                "new_tokens_per_second": round(workload.new_tokens / took, 1),
                "total_tokens_per_second": round(total / took, 1),
            }
            for name, took in seconds.items()
        },
    }
    if "hf" in seconds and "porter" in seconds:
        result["ratio"] = round(seconds["hf"] / seconds["porter"], 3)
        pairs = zip(tokens["hf"], tokens["porter"], strict=True)
        result["tokens_equal"] = sum(a == b for a, b in pairs)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for a terminal, within 80 columns."""
    work, machine = result["workload"], result["machine"]
    lines = [
        f"{result['port']}: {result['model']['parameters'] / 1e6:.0f} M parameters, "
        f"{result['model']['dtype']}",
        f"{machine['processor']}, {machine['threads']} threads, "
        f"torch {machine['torch']}",
        f"{work['prompts']} prompts, {work['prompt_tokens']} prompt tokens, "
        f"{work['new_tokens']} new tokens",
        "",
        f"{'engine':<10}{'seconds':>10}{'new tokens/s':>15}{'all tokens/s':>15}",
    ]
    for name, row in result["engines"].items():
        lines.append(
            f"{name:<10}{row['seconds']:>10.2f}{row['new_tokens_per_second']:>15.1f}"
            f"{row['total_tokens_per_second']:>15.1f}"
        )
    if "ratio" in result:
        lines += ["", f"porter / hf: {result['ratio']:.2f} "
                  f"(equal tokens: {result['tokens_equal']} of {work['prompts']} "
                  "prompts)"]  # fmt: skip
    return "\n".join(lines)


Runner = Callable[[Workload], list[list[int]]]


def _porter_runner(port: Path, model_dir: Path, trust: bool) -> Runner:
    llm = LLM(port, model_dir, trust_remote_code=trust)
    llm.generate([[3, 4, 5]], SamplingParams(max_tokens=4))

    def run(workload: Workload) -> list[list[int]]:
        params = SamplingParams(max_tokens=workload.max_tokens)
        return [out.token_ids for out in llm.generate(workload.prompts, params)]

    return run


def _hf_runner(port: Path, model_dir: Path, trust: bool) -> Runner:
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(model_dir), dtype=torch.float32, trust_remote_code=trust
    ).eval()

    def run(workload: Workload) -> list[list[int]]:
        width = max(map(len, workload.prompts))
        ids = torch.zeros(len(workload.prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(workload.prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        config = GenerationConfig(
            max_new_tokens=workload.max_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        with torch.inference_mode():
            output = model.generate(ids, attention_mask=mask, generation_config=config)
        return output[:, width:].tolist()

    run(Workload([[3, 4, 5]], 4))
    return run


def _vllm_runner(port: Path, model_dir: Path, trust: bool) -> Runner:
    try:
        import vllm
    except ImportError as error:
        raise CannotRun("vLLM is not installed in this environment") from error
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"porter_bench_{port.stem}", port)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in vars(module).items():
        if isinstance(value, type) and hasattr(value, "compute_logits"):
            vllm.ModelRegistry.register_model(name, value)
    llm = vllm.LLM(
        str(model_dir),
        skip_tokenizer_init=True,
        dtype="float32",
        trust_remote_code=trust,
        enable_prefix_caching=False,
    )

    def run(workload: Workload) -> list[list[int]]:
        params = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=workload.max_tokens,
            ignore_eos=True,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in workload.prompts]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(out.outputs[0].token_ids) for out in outputs]

    return run


_ENGINES: dict[str, Callable[[Path, Path, bool], Runner]] = {
    "porter": _porter_runner,
    "hf": _hf_runner,
    "vllm": _vllm_runner,
}


def model_type_of(port: str | Path) -> str:
    """The transformers model type that a port's header names.

    Raises UsageError when there is none: the caller has to give a model.
    """
    text = Path(port).read_text(encoding="utf-8")
    named = re.search(r"^# Generated by porter .*models/(\w+)/modeling_", text, re.M)
    if named:
        return named[1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "transformers":
            for alias in node.names:
                if alias.name.endswith("Config"):
                    return _type_of_config(alias.name)
    raise UsageError(f"{port}: the header names no transformers model; pass --model")


def _type_of_config(class_name: str) -> str:
    import transformers

    config: Any = getattr(transformers, class_name, None)
    if config is None:
        raise UsageError(f"transformers has no {class_name}; pass --model")
    return config.model_type


def _write_random_model(folder: Path, model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise UsageError(f"no model type {model_type!r} in transformers") from error
    known = {name: size for name, size in _SIZES.items() if hasattr(config, name)}
    config = AutoConfig.for_model(model_type, **known)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(str(folder))


def vocab_size_of(model_dir: Path) -> int:
    from porter.runtime.hf_config import read_hf_config

    return int(read_hf_config(model_dir, False).get_text_config().vocab_size)


def _parameters(model_dir: Path) -> int:
    from porter.runtime.loader import iterate_weights

    return sum(tensor.numel() for _, tensor in iterate_weights(model_dir, False))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return named[1].strip() if named else platform.machine()
