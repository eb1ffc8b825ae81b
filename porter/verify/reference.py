"""HuggingFace's model as the reference: float32, eager attention, one prompt a time.

Prefill is a plain `model(input_ids)`. Decoding is a loop of our own over the
model's cache, so that nothing of `generate` (its processors, its defaults from
generation_config.json) comes between the model and the comparison.
"""

import importlib
import inspect
import json
import linecache
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from porter.gap import CannotRun, UsageError
from porter.runtime.loader import checkpoint_files
from porter.verify.choices import WatchChoices
from porter.verify.quiet import quiet_transformers
from porter.verify.trace import MAX_TOKENS, TOP, Trace

# Under one of these names a model returns, and takes back, what it remembers, unless it
# has a `cache`, as transformers' own do since 5.24.
_MEMORIES = ("past_key_values", "cache_params", "state")


def class_of_module(module_name: str, architecture: str) -> type:
    """The class `architecture` of a modeling module of the installed transformers.

    module_name: `transformers.models.<folder>.modeling_<name>`.
    Raises UsageError where the module or the class doesn't exist.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{module_name}: not in the installed transformers") from error
    return _class_in(module, architecture)


def class_of_text(text: str, module_name: str, architecture: str) -> type:
    """The class `architecture` of `text`, run in the place of `module_name`.

    The text is run as a new module of the same package, so its relative imports
    find what the original's find; the original stays as it is. For sources that
    were changed in memory.
    """
    package = module_name.rpartition(".")[0]
    folder = Path(next(iter(importlib.import_module(package).__path__)))
    name = f"{module_name}_in_memory"
    module = types.ModuleType(name)
    module.__package__ = package
    # Decorators of transformers look a class's file up, where it stands and its text:
    # the first is a path that doesn't exist, the second is found in the line cache.
    module.__file__ = str(folder / f"{name.rpartition('.')[2]}.py")
    linecache.cache[module.__file__] = (
        len(text),
        None,
        text.splitlines(keepends=True),
        module.__file__,
    )
    sys.modules[name] = module
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return _class_in(module, architecture)


def _class_in(module: types.ModuleType, architecture: str) -> type:
    found = getattr(module, architecture, None)
    if not isinstance(found, type):
        raise UsageError(f"{module.__name__} has no class {architecture}")
    return found


def read_config(model_dir: Path) -> dict[str, Any]:
    """The folder's config.json. Raises UsageError where it is missing or broken."""
    path = Path(model_dir) / "config.json"
    if not Path(model_dir).is_dir():
        raise UsageError(f"{model_dir}: no such folder")
    if not path.is_file():
        raise UsageError(f"{model_dir}: no config.json, so not a model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: not a config: a JSON object was expected")
    return config


def require_trust(model_dir: Path, trust_remote_code: bool) -> str:
    """The name of the causal LM in the folder's code; UsageError without the flag."""
    auto_map = read_config(model_dir).get("auto_map") or {}
    reference = auto_map.get("AutoModelForCausalLM")
    if reference is None:
        raise UsageError(f"{model_dir}: its config.json names no AutoModelForCausalLM")
    if not trust_remote_code:
        raise UsageError(
            f"{model_dir}: running its own code {reference!r} needs --trust-remote-code"
        )
    return str(reference)


def foreign_class(model_dir: Path, trust_remote_code: bool) -> type:
    """The causal LM class of the code that the model folder brings with itself.

    Raises UsageError without the flag: importing that code runs it.
    """
    reference = require_trust(model_dir, trust_remote_code)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        with _on_path(model_dir):
            return get_class_from_dynamic_module(reference, str(model_dir))
    except (
        Exception
    ) as error:  # its code is written for some release, and some packages
        raise CannotRun(
            f"{model_dir}: its own code can't be imported here: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Where `from configuration_x import X` finds the file beside the model's."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def load_reference(
    model_class: Any, model_dir: Path, *, allow_pickle: bool = False
) -> nn.Module:
    """The model of `model_dir` in float32 with eager attention, ready to run.

    Raises UsageError where the checkpoint lacks a tensor of the model, has one of
    another shape, or has no safetensors; CannotRun where transformers fails.
    """
    config = _config(model_class, model_dir)
    config._experts_implementation = "eager"  # the file's own loop, not the library's
    config._attn_implementation = "eager"  # 4.40 takes the argument for the default
    checkpoint_files(Path(model_dir), allow_pickle)  # says what is missing, if it is
    with quiet_transformers():
        try:
            model, info = model_class.from_pretrained(
                model_dir,
                config=config,
                **{dtype_field(): torch.float32},
                attn_implementation="eager",
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
            )
        except OSError as error:
            raise UsageError(f"{model_dir}: {error}") from error
        except SafetensorError as error:
            raise UsageError(f"{model_dir}: broken safetensors: {error}") from error
        except Exception as error:  # transformers raises what it likes on bad input
            raise CannotRun(
                f"transformers can't load {model_dir}: {type(error).__name__}: {error}"
            ) from error
    _check_loading(model_dir, info)
    return model.eval()


def dtype_field() -> str:
    """What transformers calls the dtype of a config: `torch_dtype` before 4.56."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if version >= (4, 56) else "torch_dtype"


def _config(model_class: Any, model_dir: Path) -> Any:
    read_config(model_dir)
    config_class = getattr(model_class, "config_class", None)
    if config_class is None:
        raise CannotRun(f"{model_class.__name__} names no config class")
    try:
        with quiet_transformers():
            return config_class.from_pretrained(model_dir, local_files_only=True)
    except Exception as error:
        raise UsageError(f"{model_dir}/config.json: {error}") from error


def _check_loading(model_dir: Path, info: dict[str, Any]) -> None:
    wrong = sorted(str(entry) for entry in info.get("mismatched_keys", ()))
    if wrong:
        raise UsageError(f"{model_dir}: tensors of wrong shape: {some(wrong)}")
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise UsageError(f"{model_dir}: tensors missing: {some(missing)}")


def some(names: list[str], most: int = 4) -> str:
    """The first names on one line, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


@torch.inference_mode()
def trace_reference(
    model: nn.Module, prompts: list[list[int]], max_tokens: int = MAX_TOKENS
) -> list[Trace]:
    """Prefill logits and greedy tokens of each prompt, by the model alone."""
    masked = _needs_mask(model, prompts)
    return [_trace(model, prompt, max_tokens, masked) for prompt in prompts]


def _needs_mask(model: nn.Module, prompts: list[list[int]]) -> bool:
    """Whether the model is causal only where it is handed a mask, as by generation.

    Without one such a model lets each token attend to all: the logits of the first
    tokens change with the last.
    """
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        return False
    prompt = max(prompts, key=len)
    if len(prompt) < 2:
        return False
    whole = model(torch.tensor([prompt])).logits[0, :-1].float()
    part = model(torch.tensor([prompt[:-1]])).logits[0].float()
    return not torch.allclose(whole, part, rtol=1e-3, atol=1e-3)


def _caching(model: nn.Module) -> dict[str, bool]:
    """What asks a model for its memory; one that takes no such argument has none."""
    taken = inspect.signature(model.forward).parameters
    others = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return {"use_cache": True} if others or "use_cache" in taken else {}


def _trace(model: nn.Module, prompt: list[int], max_tokens: int, masked: bool) -> Trace:
    with WatchChoices() as seen:
        output = model(torch.tensor([prompt]), **_mask(masked, prompt))
        logits = output.logits[0].float()
        steps = _decode(model, prompt, max_tokens, masked)
    top = torch.log_softmax(steps, dim=-1).topk(TOP, dim=-1)
    return Trace(
        prompt=prompt,
        logits=logits,
        tokens=steps.argmax(dim=-1).tolist(),
        logprobs=[
            dict(zip(ids, values, strict=True))
            for ids, values in zip(
                top.indices.tolist(), top.values.tolist(), strict=True
            )
        ],
        steps=steps,
        choice=seen.margin,
    )


def _mask(masked: bool, tokens: list[int]) -> dict[str, torch.Tensor]:
    return {"attention_mask": torch.ones(1, len(tokens)).long()} if masked else {}


def _decode(
    model: nn.Module, prompt: list[int], max_tokens: int, masked: bool
) -> torch.Tensor:
    """Logits of `max_tokens` greedy steps, [max_tokens, vocab_size] float32."""
    steps: list[torch.Tensor] = []
    ids = torch.tensor([prompt])
    memory: dict[str, Any] = {}
    whole = list(prompt)
    caching = _caching(model)
    takes_cache = "cache" in inspect.signature(model.forward).parameters
    while len(steps) < max_tokens:
        output = model(ids, **caching, **memory, **_mask(masked, whole))
        steps.append(output.logits[0, -1].float())
        whole.append(int(steps[-1].argmax()))
        renamed = takes_cache and output.get("cache") is not None
        names = ("cache",) if renamed else _MEMORIES
        memory = {name: output[name] for name in names if output.get(name) is not None}
        # A model without a memory reads everything again.
        ids = torch.tensor([whole[-1:] if memory else whole])
    return torch.stack(steps)
