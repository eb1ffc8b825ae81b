"""A tiny checkpoint in the compressed-tensors format, and what it computes, in torch.

Symmetric round-to-nearest, written here: int8 weights a channel with int8 activations a
token (W8A8), and int4 weights a group of inputs, packed eight to a word (W4A16).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

GROUP = 32
W8_MAX = 127
Tensors = dict[str, torch.Tensor]


def _scheme(bits: int, strategy: str, dynamic: bool = False) -> dict[str, Any]:
    return {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy,
        "group_size": GROUP if strategy == "group" else None, "dynamic": dynamic,
    }  # fmt: skip


def w8a8(weight: torch.Tensor) -> Tensors:
    scale = weight.abs().amax(1, keepdim=True) / W8_MAX
    whole = (weight / scale).round().clamp(-W8_MAX, W8_MAX)
    return {"weight": whole.to(torch.int8), "weight_scale": scale}


def w4a16(weight: torch.Tensor) -> Tensors:
    groups = weight.unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(2, keepdim=True) / 7
    whole = (groups / scale).round().clamp(-8, 7).flatten(1).to(torch.int64) + 8
    shifts = torch.arange(0, 32, 4)
    words = (whole.unflatten(1, (-1, 8)) << shifts).sum(2)
    return {
        "weight_packed": words.to(torch.uint32).view(torch.int32),
        "weight_scale": scale.squeeze(2),
        "weight_shape": torch.tensor(weight.shape),
    }


def restored(tensors: Tensors) -> torch.Tensor:
    """The weight that the quantized tensors stand for."""
    scale = tensors["weight_scale"]
    if "weight" in tensors:
        return tensors["weight"].float() * scale
    words = tensors["weight_packed"].view(torch.uint32).to(torch.int64)
    whole = (words.unsqueeze(2) >> torch.arange(0, 32, 4) & 15).flatten(1) - 8
    return (whole.unflatten(1, (-1, GROUP)).float() * scale.unsqueeze(2)).flatten(1)


def by_token(x: torch.Tensor) -> torch.Tensor:
    """Activations rounded to int8, a scale for each token."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round().clamp(-128, 127) * scale


FORMATS: dict[str, tuple[Callable[[torch.Tensor], Tensors], str, dict[str, Any]]] = {
    "w8a8": (w8a8, "int-quantized", {
        "weights": _scheme(8, "channel"),
        "input_activations": _scheme(8, "token", dynamic=True),
    }),
    "w4a16": (w4a16, "pack-quantized", {
        "weights": _scheme(4, "group"), "input_activations": None,
    }),
}  # fmt: skip


def quantize(
    source: Path, target: Path, form: str, ignored: list[str], further: Tensors
) -> Tensors:
    """Write a quantized copy of a checkpoint; returns the weights that it stands for.

    ignored: modules that stay in full precision, by their names in the checkpoint.
    further: tensors added to the file; scales of the cache make a scheme for it.
    """
    shutil.copytree(source, target)
    make, name, group = FORMATS[form]
    stored: Tensors = dict(further)
    meant: Tensors = {}
    for key, tensor in load_file(source / "model.safetensors").items():
        module = key.removesuffix(".weight")
        meant[key] = tensor
        if tensor.dim() != 2 or "embed" in key or module in ignored:
            stored[key] = tensor
            continue
        made = make(tensor)
        meant[key] = restored(made)
        stored |= {f"{module}.{part}": value for part, value in made.items()}
    save_file(
        {k: v.contiguous() for k, v in stored.items()}, target / "model.safetensors"
    )
    config = json.loads((target / "config.json").read_text())
    cache = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": name,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], **group}},
        "ignore": ignored,
        "kv_cache_scheme": cache if further else None,
    }
    (target / "config.json").write_text(json.dumps(config))
    return meant


def round_inputs(model: nn.Module, ignored: list[str]) -> None:
    """Make a model's linear layers round what they read, as W8A8 does."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in ignored:
            module.register_forward_pre_hook(lambda _, args: (by_token(args[0]),))
