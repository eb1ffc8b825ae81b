"""The real sources that the suites change, and a changed text as a live module."""

import importlib.util
import itertools
import linecache
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

_serial = itertools.count()


@dataclass(frozen=True)
class SourceModel:
    """One model of the installed transformers: its folder and its causal LM class."""

    model_type: str
    causal_lm: str
    config: str


SIX = {
    model.model_type: model
    for model in (
        SourceModel("opt", "OPTForCausalLM", "OPTConfig"),
        SourceModel("llama", "LlamaForCausalLM", "LlamaConfig"),
        SourceModel("qwen3", "Qwen3ForCausalLM", "Qwen3Config"),
        SourceModel("gemma2", "Gemma2ForCausalLM", "Gemma2Config"),
        SourceModel("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig"),
        SourceModel("olmo2", "Olmo2ForCausalLM", "Olmo2Config"),
    )
}

# layers that differ by type, sinks
BY_LAYER = {
    model.model_type: model
    for model in (
        SourceModel("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig"),
        SourceModel("granite_swa", "GraniteSWAForCausalLM", "GraniteSWAConfig"),
    )
}

# decoders that write their own attention or positions
OWN_ATTENTION = {
    model.model_type: model
    for model in (
        SourceModel("gpt2", "GPT2LMHeadModel", "GPT2Config"),
        SourceModel("bloom", "BloomForCausalLM", "BloomConfig"),
        SourceModel("mpt", "MptForCausalLM", "MptConfig"),
        SourceModel("codegen", "CodeGenForCausalLM", "CodeGenConfig"),
        SourceModel("gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig"),
        SourceModel("ctrl", "CTRLLMHeadModel", "CTRLConfig"),
        SourceModel("xglm", "XGLMForCausalLM", "XGLMConfig"),
        SourceModel("openai", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig"),
    )
}

# Dense decoders with norms, rotations and multipliers of their own.
DENSE = {
    model.model_type: model
    for model in (
        SourceModel("bitnet", "BitNetForCausalLM", "BitNetConfig"),
        SourceModel("cohere", "CohereForCausalLM", "CohereConfig"),
        SourceModel("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Config"),
        SourceModel("helium", "HeliumForCausalLM", "HeliumConfig"),
        SourceModel("hyperclovax", "HyperCLOVAXForCausalLM", "HyperCLOVAXConfig"),
        SourceModel("ministral3", "Ministral3ForCausalLM", "Ministral3Config"),
        SourceModel("moshi", "MoshiForCausalLM", "MoshiConfig"),
        SourceModel("nemotron", "NemotronForCausalLM", "NemotronConfig"),
        SourceModel("olmo", "OlmoForCausalLM", "OlmoConfig"),
        SourceModel("seed_oss", "SeedOssForCausalLM", "SeedOssConfig"),
    )
}

# Mixtures of experts and latent attention, of which some changes are judged as well.
SPARSE = {
    model.model_type: model
    for model in (
        SourceModel("mixtral", "MixtralForCausalLM", "MixtralConfig"),
        SourceModel("glm4_moe", "Glm4MoeForCausalLM", "Glm4MoeConfig"),
        SourceModel("youtu", "YoutuForCausalLM", "YoutuConfig"),
        SourceModel("deepseek_v32", "DeepseekV32ForCausalLM", "DeepseekV32Config"),
    )
}
SOURCES = SIX | BY_LAYER | OWN_ATTENTION | SPARSE | DENSE


@cache
def source_path(model_type: str) -> Path:
    """Path of the installed `modeling_*.py`, found without importing transformers."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("transformers is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "models" / model_type
    return folder / f"modeling_{model_type}.py"


@cache
def source_text(model_type: str) -> str:
    return source_path(model_type).read_text(encoding="utf-8")


def exec_source(model_type: str, text: str) -> ModuleType:
    """Run `text` as a module beside the real one, so that relative imports resolve.

    The module is registered under a fresh name, because transformers' decorators look
    up a class's module; `release` takes it out again.
    """
    package = f"transformers.models.{model_type}"
    name = f"{package}.variant_{next(_serial)}_{model_type}"
    module = ModuleType(name)
    module.__package__ = package
    # auto_docstring derives the model's name from the file's path.
    module.__file__ = str(source_path(model_type))
    # A path that doesn't exist, below the real folder: inspect.getsourcefile takes it.
    shown = _shown(module)
    linecache.cache[shown] = (len(text), None, text.splitlines(True), shown)
    sys.modules[name] = module
    try:
        exec(compile(text, shown, "exec"), module.__dict__)
    except BaseException:
        release(module)
        raise
    return module


def release(module: ModuleType) -> None:
    """Forget a module of `exec_source`."""
    sys.modules.pop(module.__name__, None)
    linecache.cache.pop(_shown(module), None)


def _shown(module: ModuleType) -> str:
    stem = module.__name__.rpartition(".")[2]
    return str(Path(str(module.__file__)).with_name(f"{stem}.py"))
