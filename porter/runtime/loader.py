"""Stream a checkpoint into a model, one tensor at a time.

Safetensors in one file or several with an index; pickled checkpoints only where the
caller allows it, and then without code in them (torch's weights_only).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from porter.gap import UsageError
from porter.runtime.accounting import (
    WeightAccount,
    WeightReport,
    keep_account,
    name_tensor,
    set_markers,
)
from porter.runtime.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)

_INDEX = "model.safetensors.index.json"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.pt", "optimizer.pt")


def checkpoint_files(model_dir: Path, allow_pickle: bool) -> list[Path]:
    """The weight files of a folder, safetensors before pickles, in name order.

    With an index only the files it names. Raises UsageError when there are none, one
    is missing, or there are pickles alone and they aren't allowed.
    """
    for index, pattern in ((_INDEX, "*.safetensors"), (_PICKLE_INDEX, "*.bin")):
        files = sorted(model_dir.glob(pattern))
        files = [f for f in files if f.name not in _NOT_WEIGHTS]
        index_path = model_dir / index
        if index_path.is_file():
            files = _files_of_index(index_path)
        if not files:
            continue
        if pattern == "*.bin" and not allow_pickle:
            raise UsageError(
                f"{model_dir}: only pickled weights ({files[0].name}); "
                "convert them to safetensors, or pass --allow-pickle"
            )
        return files
    raise UsageError(f"{model_dir}: no weights (*.safetensors) in the model folder")


def _files_of_index(index_path: Path) -> list[Path]:
    try:
        with index_path.open(encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{index_path}: not a readable index: {error!r}") from error
    files = [index_path.parent / name for name in names]
    for path in files:
        if path.parent != index_path.parent:
            raise UsageError(f"{index_path}: names a file elsewhere: {path.name}")
        if not path.is_file():
            raise UsageError(f"{index_path}: names {path.name}, which is missing")
    return files


def checkpoint_names(model_dir: Path, allow_pickle: bool) -> list[str]:
    """The names of all tensors in the checkpoint."""
    names: list[str] = []
    for path in checkpoint_files(model_dir, allow_pickle):
        if path.suffix == ".safetensors":
            with _open_safetensors(path) as file:
                names.extend(file.keys())
        else:
            names.extend(_load_pickle(path))
    return names


def iterate_weights(
    model_dir: Path, allow_pickle: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of everything in the checkpoint; one tensor in memory at a time.

    A file's own order, files in name order. Raises UsageError on a broken file.
    """
    for path in checkpoint_files(model_dir, allow_pickle):
        if path.suffix != ".safetensors":
            yield from _load_pickle(path).items()
            continue
        with _open_safetensors(path) as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: not a readable safetensors file: {error}") from error


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken or hostile pickle raises
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a readable checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise UsageError(f"{path}: holds no dictionary of tensors")
    return {n: t for n, t in state.items() if isinstance(t, torch.Tensor)}


def load_weights(
    model: nn.Module, model_dir: Path, *, allow_pickle: bool, strict: bool
) -> WeightReport:
    """Load through the model's own `load_weights`, and account for every tensor.

    strict: UsageError when a parameter is left uninitialised or a checkpoint tensor
    has no place in the model; otherwise the report says so.
    """
    account = WeightAccount(strict)
    last = ""

    def named() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal last
        for last, tensor in iterate_weights(model_dir, allow_pickle):
            yield last, name_tensor(last, tensor)

    loader: Any = getattr(model, "load_weights", None)
    if loader is None:
        raise UsageError(f"{type(model).__name__} has no load_weights")
    set_markers(model)
    with keep_account(account), torch.no_grad():
        try:
            loader(named())
        except (ValueError, AssertionError, KeyError, RuntimeError) as error:
            raise UsageError(
                f"{model_dir}: loading failed near tensor {last}: {error}"
            ) from error
    report = account.report(model)
    if strict and report.uninitialised:
        raise UsageError(
            f"{model_dir}: the checkpoint lacks tensors for "
            + _some(report.uninitialised)
        )
    return report


def make_dummy_weights(model: nn.Module) -> None:
    """Random weights of a size that keeps activations finite; vectors are near one.

    Seeded, and made where the parameters are.
    """
    for number, parameter in enumerate(model.parameters()):
        device = parameter.device
        generator = torch.Generator(device).manual_seed(number)
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.data.uniform_(0.9, 1.1, generator=generator)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def retie_word_embeddings(model: nn.Module) -> None:
    """Share the head with the embedding where the checkpoint stored it twice."""
    named = [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(m, VocabParallelEmbedding)
    ]
    heads = [(n, m) for n, m in named if isinstance(m, ParallelLMHead)]
    tables = [m for _, m in named if not isinstance(m, ParallelLMHead)]
    if len(heads) != 1 or len(tables) != 1:
        return
    (name, head), table = heads[0], tables[0]
    if head.weight.shape == table.weight.shape and torch.equal(
        head.weight, table.weight
    ):
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, head.tie_weights(table))
