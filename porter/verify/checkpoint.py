"""Tiny seeded checkpoints in the HuggingFace layout, made to tell models apart.

Weights as initialised would hide faults: norms of exactly one, biases of exactly
zero, attention so flat that its scale hardly matters. Here every parameter is
drawn so that dropping or misplacing any of them changes the logits far more than
the tolerance of a comparison, and no two next-token candidates are close.
"""

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from porter.gap import CannotRun
from porter.verify.choices import is_near, nearest_choice
from porter.verify.quiet import quiet_transformers
from porter.verify.reference import dtype_field, trace_reference
from porter.verify.tiny_config import tiny_configs
from porter.verify.trace import Trace, make_prompts

NORM_SPREAD = 0.2
BIAS_SPREAD = 0.2
# Scales of (embedding tables, other matrices). A tied head tends to repeat the token
# it has just read: the less, the smaller the embedding and the larger the layers'
# part. The first that gives a varied continuation is taken.
SCALES = ((0.5, 1.4), (0.1, 1.4), (0.02, 1.4), (0.02, 2.2))
SEEDS = 3
LEAST_DISTINCT = 8  # different tokens in a continuation of MAX_TOKENS
LEAST_MARGIN = 3e-4  # of the logits' RMS, between the two likeliest tokens of a step
MOST_PARAMETERS = 30_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `from_pretrained` reads, and what it was made of.

    parameters: number of elements. seed: of every draw. config: the instance saved.
    margin: the smallest distance of the two likeliest tokens in greedy decoding of
    the standard prompts, as a fraction of the logits' RMS. distinct: the number of
    different tokens in the least varied of those continuations. choice: how near a tie
    the model itself chose in them (`porter.verify.choices`), None where it never did.
    """

    folder: Path
    config: Any
    seed: int
    parameters: int
    margin: float
    distinct: int
    choice: float | None = None


@dataclass(frozen=True)
class _Draw:
    """What was drawn, and how well it tells models apart. See Checkpoint."""

    seed: int
    scales: tuple[float, float]
    margin: float
    distinct: int
    choice: float | None

    @property
    def told(self) -> bool:
        """Whether nothing that the model does is near a tie."""
        return self.margin >= LEAST_MARGIN and not is_near(self.choice)

    @property
    def good(self) -> bool:
        return self.told and self.distinct >= LEAST_DISTINCT


def make_checkpoint(
    model_class: type,
    folder: Path,
    *,
    config_overrides: Mapping[str, Any] | None = None,
    config: Any = None,
    seed: int = 0,
    shards: int = 1,
    code: Path | None = None,
) -> Checkpoint:
    """A random checkpoint of `model_class` (a transformers causal LM) in `folder`.

    The config is `config`, or a tiny one of the class's own config class with
    `config_overrides`. float32 safetensors under the original checkpoint names,
    split in about `shards` files. code: the folder that a class of foreign code is
    from; its files go along, as they do in published models. Raises UsageError
    (unknown override) and CannotRun (no tiny config works).
    """
    with quiet_transformers():
        model = _build(model_class, config, config_overrides, seed)
        draw = _draw_until_telling(model, seed)
        parameters = sum(p.numel() for p in model.parameters())
        limit = max(1, 4 * parameters // shards + 1) if shards > 1 else 1 << 40
        model.config.architectures = [model_class.__name__]
        model.save_pretrained(folder, max_shard_size=limit)
    _complete_config(Path(folder), code)
    return Checkpoint(
        Path(folder),
        model.config,
        draw.seed,
        parameters,
        draw.margin,
        draw.distinct,
        draw.choice,
    )


def _draw_until_telling(model: nn.Module, first: int) -> _Draw:
    """Randomise until greedy decoding has no near tie and doesn't repeat one token, and
    the model chooses nothing near a tie.

    Returns the draw that the model is left with: the first that is good, else the best.
    """
    prompts = make_prompts(vocabulary(model.config))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[_Draw] = []
    for seed in range(first, first + SEEDS):
        for scales in SCALES:
            model.load_state_dict(start)
            randomise(model, seed, *scales)
            draw = _quality(seed, scales, trace_reference(model, prompts[:1]))
            if draw.distinct >= LEAST_DISTINCT:  # only then the rest is worth the time
                draw = _quality(seed, scales, trace_reference(model, prompts))
            seen.append(draw)
            if draw.good:
                return draw
    best = max(seen, key=lambda d: (d.told, d.distinct, d.margin, d.seed, d.scales))
    model.load_state_dict(start)
    randomise(model, best.seed, *best.scales)
    return best


def _quality(seed: int, scales: tuple[float, float], traces: list[Trace]) -> _Draw:
    margin = float("inf")
    for trace in traces:
        assert trace.steps is not None
        best = trace.steps.topk(2, dim=-1).values
        scale = trace.steps[trace.steps.isfinite()].square().mean().sqrt()
        margin = min(margin, float((best[:, 0] - best[:, 1]).min() / scale))
    distinct = min(len(set(trace.tokens)) for trace in traces)
    choice = nearest_choice([trace.choice for trace in traces])
    return _Draw(seed, scales, margin, distinct, choice)


def vocabulary(config: Any) -> int:
    """The number of token ids that the model reads. Raises CannotRun without it."""
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int):
        raise CannotRun(f"{type(config).__name__} has no vocab_size")
    return size


def _build(
    model_class: Any, config: Any, overrides: Mapping[str, Any] | None, seed: int
) -> nn.Module:
    if config is not None:
        return _instance(model_class, config, seed)
    failure: Exception | None = None
    for candidate in tiny_configs(model_class.config_class, overrides):
        try:
            _check_size(model_class, candidate)
            model = _instance(model_class, candidate, seed)
            with torch.inference_mode():
                model(torch.arange(3, 40).unsqueeze(0))
        except Exception as error:  # whatever a foreign model raises on a bad shape
            failure = failure or error
            continue
        return model
    raise CannotRun(
        f"{model_class.__name__} doesn't run with a tiny config: "
        f"{type(failure).__name__}: {failure}"
    )


def _check_size(model_class: Any, config: Any) -> None:
    """Count the parameters on the meta device before any memory is taken."""
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class(copy.deepcopy(config)).parameters())
    if size > MOST_PARAMETERS:
        raise CannotRun(f"{size:,} parameters are not a tiny checkpoint")


def _instance(model_class: Any, config: Any, seed: int) -> nn.Module:
    setattr(config, dtype_field(), torch.float32)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"  # the file's own loop, not the library's
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).to(torch.float32).eval()


@torch.no_grad()
def randomise(
    model: nn.Module, seed: int, table_std: float = 0.5, gain: float = 1.4
) -> None:
    """Draw every parameter and constant float buffer of `model` anew, in place.

    Vectors and constants move by a uniform +-0.2 around the value that the model's
    own initialisation gave them; matrices are normal with the gain divided by the
    square root of the fan-in, so activations stay of order one at any width
    (stacked expert matrices have their fan-in on the last axis, or nearly its size).
    """
    draw = torch.Generator().manual_seed(seed)
    tables = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    }
    for parameter in model.parameters():
        std = table_std
        if id(parameter) not in tables and parameter.dim():
            std = gain / parameter.shape[-1] ** 0.5
        parameter.copy_(_draw(parameter, std, draw))
    persistent = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in persistent and _is_constant(buffer):
            buffer.add_(_uniform(buffer, NORM_SPREAD, draw))


def _draw(parameter: nn.Parameter, std: float, draw: torch.Generator) -> torch.Tensor:
    if _is_constant(parameter):
        return parameter + _uniform(parameter, NORM_SPREAD, draw)
    if parameter.dim() < 2:
        return parameter * (1 + _uniform(parameter, BIAS_SPREAD, draw))
    return torch.randn(parameter.shape, generator=draw) * std


def _is_constant(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    return bool((tensor == tensor.flatten()[0]).all())


def _uniform(like: torch.Tensor, spread: float, draw: torch.Generator) -> torch.Tensor:
    return (torch.rand(like.shape, generator=draw) * 2 - 1) * spread


def _complete_config(folder: Path, code: Path | None) -> None:
    """State the dtype in config.json, and where foreign code is found."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    if code is not None:
        config["auto_map"] = json.loads((code / "config.json").read_text())["auto_map"]
        for file in code.glob("*.py"):
            shutil.copy(file, folder)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
