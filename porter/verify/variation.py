"""A second tiny config: as many switches as a class allows, turned the other way.

A port that is right for a config's defaults can be wrong beside them: biases off where
they were on, tied heads, one key/value head, another activation, scaled rope. The
changes are tried one after another, and each stays that the source accepts and that
changes what it computes, as long as it is a decoder: no token may read a later one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from porter.gap import CannotRun
from porter.verify.checkpoint import randomise
from porter.verify.quiet import quiet_transformers
from porter.verify.tiny_config import HEADS, tiny_configs

# Switches of the library's, and of how a model runs rather than what it computes.
_NOT_ARITHMETIC = {
    "add_cross_attention",
    "is_decoder",
    "is_encoder_decoder",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
}
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
_PROMPT = 40  # tokens read to see whether a change changes anything
_SMALLEST = 1e-3  # of the logits' RMS: a change that shows
_TRIALS = 24


def vary(
    model_class: Any,
    seed: int = 0,
    ported: Callable[[dict[str, Any]], bool] = lambda overrides: True,
) -> dict[str, Any]:
    """Config overrides under which `model_class` runs and computes something else.

    The changes that are together in force, in the order in which they were taken; empty
    where the class accepts none. ported(overrides): whether there is a port for them;
    a change that is refused is left out, and the others are tried. Raises CannotRun where
    no tiny config runs at all.
    """
    with quiet_transformers():
        taken: dict[str, Any] = {}
        before = _behaviour(model_class, taken, seed)
        if before is None:
            raise CannotRun(f"{model_class.__name__} doesn't run with a tiny config")
        for trial, (name, value) in enumerate(_changes(model_class)):
            if trial >= _TRIALS:
                break
            attempt = {**taken, name: value}
            after = _behaviour(model_class, attempt, seed)
            if after is None or not _differ(before, after):
                continue
            if ported(attempt):
                taken, before = attempt, after
    return taken


def _changes(model_class: Any) -> Iterator[tuple[str, Any]]:
    config = next(tiny_configs(model_class.config_class))
    declared = {k: v for k, v in vars(config).items() if not k.startswith("_")}
    renamed = getattr(model_class.config_class, "attribute_map", {})
    for name in ("num_key_value_heads", "num_kv_heads"):
        real = renamed.get(name, name)
        if isinstance(declared.get(real), int) and declared[real] != HEADS:
            yield real, HEADS
            yield real, 1
    for name, value in declared.items():
        if isinstance(value, bool) and name not in _NOT_ARITHMETIC:
            yield name, not value
    for name in _ACTIVATIONS:
        real = renamed.get(name, name)
        if isinstance(declared.get(real), str):
            yield real, "relu" if declared[real].startswith("gelu") else "gelu"
    rope = declared.get("rope_parameters")
    if isinstance(rope, Mapping) and rope.get("rope_type") == "default":
        yield "rope_parameters", {**rope, "rope_type": "linear", "factor": 4.0}


def _behaviour(
    model_class: Any, overrides: Mapping[str, Any], seed: int
) -> torch.Tensor | None:
    """Logits of one prompt, [1, tokens, vocab_size]; None where it doesn't run."""
    for config in _accepted(model_class.config_class, overrides):
        config.dtype = torch.float32
        config._attn_implementation = "eager"
        try:
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                torch.manual_seed(seed)
                model: nn.Module = model_class(config).to(torch.float32).eval()
                randomise(model, seed)
                prompt = torch.arange(3, 3 + _PROMPT).unsqueeze(0)
                logits = model(prompt).logits
                shorter = model(prompt[:, :-1]).logits
        except Exception:  # whatever a foreign model raises: that config isn't one
            continue
        causal = not _differ(logits[:, : _PROMPT - 1], shorter)
        if causal and bool(logits.isfinite().all()):
            return logits
    return None


def _accepted(config_class: type, overrides: Mapping[str, Any]) -> Iterator[Any]:
    try:
        yield from tiny_configs(config_class, overrides)
    except CannotRun:  # the class refuses these values
        return


def _differ(before: torch.Tensor, after: torch.Tensor) -> bool:
    if before.shape != after.shape:
        return True
    scale = before.square().mean().sqrt()
    return bool((before - after).square().mean().sqrt() > _SMALLEST * scale)
