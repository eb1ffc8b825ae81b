"""The compiler decides by data flow: no model's name may stand anywhere in it.

The names come from the installed transformers: the folders of its `models`, what stands
before `ForCausalLM` in the classes there, and both without their version numbers.
Every word of the compiler's files is held against them: names, attributes, strings,
comments and docstrings.
"""

import importlib.util
import re
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The runtime mirrors vLLM's layers, some of which are named after models, and the help
# texts of the commands have models for examples. Neither decides anything.
OUTSIDE = {"runtime", "commands"}
COMPILER = sorted(
    path
    for path in (ROOT / "porter").rglob("*")
    if path.suffix in (".py", ".jinja", ".j2")
    and not OUTSIDE & set(path.relative_to(ROOT).parts)
)

# Models whose name is also an ordinary word or a term of the trade.
ORDINARY = {
    "align",
    "auto",  # AutoConfig, auto_map: transformers' way to find a class
    "automodel",
    "bit",
    "clip",
    "encoderdecoder",  # is_encoder_decoder: a field of every config
    "git",
    "gte",  # ast.GtE
    "led",
    "phi",  # the value where two branches join
    "roformer",  # the paper that rotary embeddings are from
}

# Identifiers and literals of transformers' and vLLM's own interfaces, exactly as spelt
# there: what porter must read or write to name a layer or a kind of rope.
INTERFACE = {
    "GemmaRMSNorm",  # vLLM's layer for norms that multiply by 1 + weight
    "llama3",  # a rope_type
}

WORD = re.compile(r"[A-Za-z0-9_]+")
PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@cache
def model_names() -> frozenset[str]:
    """Names of models, lower case and without underscores: `gptneox`, `qwen3`."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    folders = Path(spec.origin).parent / "models"
    names = {folder.name for folder in folders.iterdir() if folder.name[0] != "_"}
    for file in folders.glob("*/modeling_*.py"):
        names |= set(re.findall(r"^class (\w+)ForCausalLM\b", file.read_text(), re.M))
    names |= {re.sub(r"(_?v)?[0-9]+(_[0-9]+)?$", "", name) for name in names}
    joined = {name.replace("_", "").lower() for name in names}
    return frozenset(name for name in joined if len(name) > 2)


def named_in(word: str) -> str | None:
    """The model that a word names: at its start or after a change of case or type."""
    parts = [piece.lower() for piece in PIECE.findall(word)]
    text = "".join(parts)
    edges = [0, *accumulate(map(len, parts))]
    for start in edges:
        for end in reversed(edges):
            if text[start:end] in model_names() - ORDINARY:
                return text[start:end]
    return None


def mentions(text: str) -> list[str]:
    """`line: word (model)` for each word of the text that names a model."""
    return [
        f"{number}: {word} ({model})"
        for number, line in enumerate(text.splitlines(), 1)
        for word in WORD.findall(line)
        if word not in INTERFACE and (model := named_in(word)) is not None
    ]


@pytest.mark.parametrize("path", COMPILER, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_model_is_named(path: Path) -> None:
    assert not mentions(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        'if name == "llama":',
        "class LlamaRMSNorm:",
        "node.attr == qwen3_norm",
        "is_gpt_neox(source)",
        'isinstance(cls, "GPTNeoXAttention")',
        "config.gemma",
        "# as OPTDecoder does",
        "Olmo2",
        "deepseek",
    ],
)
def test_a_planted_name_is_found(line: str) -> None:
    assert mentions(line)


@pytest.mark.parametrize(
    "line",
    ["the options of an adopted choice", "x.clip(0)", '"rope_type": "llama3"'],
)
def test_other_words_are_left_alone(line: str) -> None:
    assert mentions(line) == []


def test_allowed_words_are_names_of_models() -> None:
    assert model_names() >= ORDINARY
    assert all(named_in(word) for word in INTERFACE)
