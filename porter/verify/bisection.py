"""The first module whose output differs, when a port doesn't compute its source.

Both models run the same prompt; the reference tells its modules' outputs in the order
in which they finish, and the first one that the port has too, with other values, is
where the port went wrong: everything before it was equal. A module that the port fused
with others has no partner, so its nearest ancestor that has one answers for it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from porter.verify.comparison import rel_rmse

# Bounds of the relative RMSE at which a module's output is called different: above
# the noise of float32, and below what a fault does that shows in the logits at all.
LEAST, MOST = 1e-5, 1e-3


def telling_tolerance(logits_error: float) -> float:
    """The tolerance that finds the origin of a relative RMSE of the logits.

    A tenth of it, within bounds; NaN gives the coarsest.
    """
    return max(LEAST, min(MOST, logits_error / 10)) if logits_error < 1 else MOST


def first_divergence(
    reference: nn.Module, llm: Any, prompt: list[int], tolerance: float = MOST
) -> str | None:
    """Path, in the reference, of the first module whose output differs in the port.

    llm: an engine on one rank, with `capture(prompt, paths=None)` -> path -> tensor.
    None where every module that both have gives the same: then the difference is in
    what the model does outside of them, or in decoding.
    """
    expected = capture_reference(reference, prompt)
    outputs = llm.capture(prompt, None)
    for path, tensor in expected.items():
        got = partner(path, outputs)
        if got is not None and not same_output(tensor, got, tolerance):
            return path
    return None


def capture_reference(reference: nn.Module, prompt: list[int]) -> dict[str, Any]:
    """Module path -> first tensor of its output, in the order in which they finish.

    A module that runs several times keeps its last output, as the port's does.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                found.pop(path, None)
                found[path] = tensor.detach().clone()

        return hook

    hooks = [
        module.register_forward_hook(keep(path))
        for path, module in reference.named_modules()
        if path
    ]
    try:
        with torch.inference_mode():
            reference(torch.tensor([prompt]))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def first_tensor(output: Any) -> torch.Tensor | None:
    """The tensor that a module returns, or the first of several."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next(
            (t for item in output if (t := first_tensor(item)) is not None), None
        )
    return None


def partner(path: str, outputs: Mapping[str, Any]) -> Any:
    """The port's output of the same module; its path may have another root."""
    if path in outputs:
        return outputs[path]
    root, _, rest = path.partition(".")
    if not rest:
        return None
    found = [other for other in outputs if other.partition(".")[2] == rest]
    return outputs[found[0]] if len(found) == 1 else None


def same_output(expected: torch.Tensor, got: Any, tolerance: float) -> bool:
    """Whether both hold the same values, whatever axes they are arranged in.

    A pair of equal shape may be a hidden state and the residual that is still to be
    added to it, as fused norms leave it: then their sum may be the module's output.
    Values that can't be compared (another number of elements) count as the same.
    """
    parts = [p for p in (got if isinstance(got, tuple | list) else [got])]
    tensors = [p for p in parts if isinstance(p, torch.Tensor)]
    candidates = tensors[:1]
    if len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
        candidates.append(tensors[0] + tensors[1])
    comparable = [c for c in candidates if c.numel() == expected.numel()]
    return not comparable or any(
        rel_rmse(expected.float().flatten()[None], c.float().flatten()[None])
        <= tolerance
        for c in comparable
    )
