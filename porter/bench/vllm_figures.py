"""`porter bench --engine vllm`: the port beside vLLM's own ways to run the checkpoint."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from porter.bench.engines import HuggingFaceEngine, Setup
from porter.bench.port import circumstances
from porter.bench.rivals import RIVALS, NotThere, Order, Rival
from porter.bench.side_by_side import Spread, Turns
from porter.bench.workload import Workload
from porter.console import print_table, say

# What both ways of writing a model fuse: the kinds that are compared by count.
FUSED = {"qkv": ("qkv",), "gate_up": ("gate_up",), "norm": ("rms_norm", "layer_norm")}


def measure_vllm(
    setup: Setup, workload: Workload, repeats: int, eager: bool
) -> dict[str, Any]:
    """The JSON of a run. Raises CannotRun where vLLM can't run one of the models."""
    absent: dict[str, str] = {}
    with HuggingFaceEngine(setup) as reference:
        expected = reference.generate(workload.prompts, workload.counts)
    length = max(map(len, workload.prompts)) + workload.new_tokens + 1
    turns = Turns(workload, expected)
    for kinds, count in _loadings(repeats):
        with ExitStack() as stack:
            rivals = []
            for kind in kinds:
                try:
                    order = Order(kind, setup, eager, length)
                    rivals.append(stack.enter_context(Rival(order)))
                except NotThere as error:
                    absent[kind] = str(error)
            turns.take(rivals, count)
    figures = turns.figures()
    return {
        **circumstances(setup, workload),
        "repeats": repeats,
        "compiled": not eager,
        "layers": _layers(setup.model),
        "models": [figure.to_json() for figure in figures],
        "absent": absent,
    }


def _loadings(repeats: int) -> list[tuple[list[str], int]]:
    """Orders in which the models are loaded, and repeats after each."""
    first = (repeats + 1) // 2
    orders = [(list(RIVALS), first), (list(RIVALS)[::-1], repeats - first)]
    return [(kinds, count) for kinds, count in orders if count]


def _layers(model: Path) -> int | None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if isinstance(config.get(name), int):
            return config[name]
    return None


def show_vllm(facts: dict[str, Any]) -> None:
    """The tables: speed, then what is fused in each layer."""
    rows = [
        (
            model["name"],
            f"{model['load_seconds']:.1f}",
            Spread(**model["prefill"]).rounded(),
            Spread(**model["decode"]).rounded(),
            f"{model['equal_prompts']}/{facts['requests']}",
        )
        for model in facts["models"]
    ]
    heads = ["model", "load s", "prefill tokens/s", "decode tokens/s", "equal to HF"]
    print_table(heads, rows, right=heads[1:])
    port, *others = facts["models"]
    ratios = [
        (
            f"port / {model['name']}",
            f"{port['load_seconds'] / model['load_seconds']:.2f}",
            str(Spread(**model["prefill_ratio"])),
            str(Spread(**model["decode_ratio"])),
        )
        for model in others
    ]
    heads = ["ratio", "load", "prefill", "decode"]
    print_table(heads, ratios, right=heads[1:])
    heads = ["fused a layer", *FUSED]
    counts = [(model["name"], *_counts(model, facts)) for model in facts["models"]]
    print_table(heads, counts, right=heads[1:])
    for why in facts["absent"].values():
        say(why)
    how = "compiled" if facts["compiled"] else "eager"
    halves = (
        " in turns, half of them loaded in the other order"
        if facts["repeats"] > 1
        else ""
    )
    say(f"vLLM {how}; medians of {facts['repeats']} repeats{halves}, and their range")
    from porter.commands.bench import say_circumstances

    say_circumstances(facts)


def _counts(model: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    layers = facts["layers"] or 1
    out = []
    for kinds in FUSED.values():
        count = sum(model["fused"].get(kind, 0) for kind in kinds) / layers
        out.append(f"{count:.2f}".removesuffix(".00"))
    return out
