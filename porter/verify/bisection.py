"""The first module whose output differs, when a port doesn't compute its source.

Both models run the same prompt; the reference tells its modules' outputs in the order
in which they finish, and the first one that the port has too, with other values, is
where the port went wrong: everything before it was equal. Where that module was given
other values already, the fault is in what its parent does before it: in a module that
the port fused with others and that has no partner, or between modules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from porter.verify.comparison import rel_rmse

# Bounds of the relative RMSE at which a module's output is called different: above
# the noise of float32, and below what a fault does that shows in the logits at all.
LEAST, MOST = 1e-5, 1e-3


@dataclass(frozen=True)
class Flow:
    """The floating-point tensors that a module was given and that it returned."""

    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


def telling_tolerance(logits_error: float) -> float:
    """The tolerance that finds the origin of a relative RMSE of the logits.

    A tenth of it, within bounds; NaN gives the coarsest.
    """
    return max(LEAST, min(MOST, logits_error / 10)) if logits_error < 1 else MOST


def first_divergence(
    reference: nn.Module, llm: Any, prompt: list[int], tolerance: float = MOST
) -> str | None:
    """Path, in the reference, of the first module whose output differs in the port.

    llm: an engine on one rank, with its `model` and `prefill_logits`.
    None where every module that both have gives the same: then the difference is in
    what the model does outside of them, or in decoding.
    """
    expected = capture(reference, lambda: reference(torch.tensor([prompt])))
    port = capture(llm.model, lambda: llm.prefill_logits([prompt]))
    verdicts = [
        (path, same_values(flow.outputs[0], got.outputs, tolerance))
        for path, flow in expected.items()
        if (got := partner(path, port)) is not None
    ]
    path = first_lasting_difference(verdicts)
    while path is not None and (outer := path.rpartition(".")[0]):
        if _same_inputs(path, expected, port, tolerance):
            break
        path = outer
    return path


def _same_inputs(
    path: str, expected: Mapping[str, Flow], port: Mapping[str, Flow], tolerance: float
) -> bool:
    """Whether both gave the module the same, False where either doesn't run it."""
    ours, theirs = expected.get(path), partner(path, port)
    if ours is None or theirs is None:
        return False
    if not ours.inputs or not theirs.inputs:
        return True
    return same_values(ours.inputs[0], theirs.inputs, tolerance)


def first_lasting_difference(verdicts: list[tuple[str, bool]]) -> str | None:
    """The first difference that no equal output follows, from (path, same) in order.

    A fault reaches everything computed after it. A difference that later modules don't
    show is one of form: the port's module of that name takes over a neighbour's work.
    Where a difference of form stands right before the fault, it is told from the fault
    by the same module of the layers before, which had it too.
    """
    end = max((i for i, (_, same) in enumerate(verdicts) if same), default=-1)
    form = {_in_any_layer(path) for path, same in verdicts[: end + 1] if not same}
    rest = [path for path, same in verdicts[end + 1 :]]
    faults = [path for path in rest if _in_any_layer(path) not in form]
    return next(iter(faults or rest), None)


def _in_any_layer(path: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


@torch.inference_mode()
def capture(model: nn.Module, run: Callable[[], Any]) -> dict[str, Flow]:
    """Module path -> what went in and came out, in the order in which they finish.

    A module that runs several times keeps its last run.
    """
    found: dict[str, Flow] = {}
    given: dict[str, list[torch.Tensor]] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given[path] = float_tensors([args, kwargs])  # some are written over

        return hook

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs = float_tensors(output)
            if outputs:
                found.pop(path, None)
                found[path] = Flow(given[path], outputs)

        return hook

    hooks = []
    for path, module in model.named_modules():
        # An activation that multiplies too is not the reference's module of its name.
        if path and not type(module).__name__.endswith("AndMul"):
            hooks.append(module.register_forward_pre_hook(note(path), with_kwargs=True))
            hooks.append(module.register_forward_hook(keep(path)))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def float_tensors(output: Any) -> list[torch.Tensor]:
    """Copies of the floating-point tensors of a value on the CPU, nested ones in order."""
    if isinstance(output, torch.Tensor):
        floats = output.is_floating_point()
        return [output.detach().to("cpu", copy=True)] if floats else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return [tensor for item in output for tensor in float_tensors(item)]
    return []


def partner(path: str, outputs: Mapping[str, Any]) -> Any:
    """The port's output of the same module; its path may have another root."""
    if path in outputs:
        return outputs[path]
    root, _, rest = path.partition(".")
    if not rest:
        return None
    found = [other for other in outputs if other.partition(".")[2] == rest]
    return outputs[found[0]] if len(found) == 1 else None


def same_values(
    expected: torch.Tensor, got: list[torch.Tensor], tolerance: float
) -> bool:
    """Whether both hold the same values, whatever axes they are arranged in.

    A pair of equal shape may be a hidden state and the residual that is still to be
    added to it, as fused norms leave it: then their sum may be the value.
    Values that can't be compared (another number of elements) count as the same.
    """
    candidates = got[:1]
    if len(got) > 1 and got[0].shape == got[1].shape:
        candidates.append(got[0] + got[1])
    comparable = [c for c in candidates if c.numel() == expected.numel()]
    return not comparable or any(
        rel_rmse(expected.float().flatten(), c.float().flatten()) <= tolerance
        for c in comparable
    )
