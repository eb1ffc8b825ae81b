"""Which models the zoo has: every decoder-only causal LM of the installed transformers.

The rule, read from the files alone. A class is in the zoo when
1. transformers maps a model type to it as a causal LM (`MODEL_FOR_CAUSAL_LM_MAPPING_
   NAMES`), or it is called `XForCausalLM` where a model type's base model is `XModel`;
2. its forward reads `input_ids` and no other modality, no other model's states, and
   no permutation of the sequence: see `OTHER_INPUTS`;
3. it is no encoder that can be switched to decode, and no decoder half of an
   encoder-decoder: its model type is in no table of `SEQ_TO_SEQ`, and it doesn't take
   `encoder_hidden_states` while asking its config whether it is a decoder;
4. it isn't the masked LM class of its model type under another name.
A class that several model types share is listed once.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from porter.gap import UsageError
from porter.release import transformers_root

CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
BASE = "MODEL_MAPPING_NAMES"
# Tables of models that read one sequence and write another, of text or of sound.
SEQ_TO_SEQ = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
)

# How arguments begin that bring in what a decoder-only language model doesn't have.
OTHER_INPUTS = (
    "pixel_values",
    "image_",
    "audio_",
    "input_features",
    "speech_",
    "encoder_outputs",
    "backbone_",
    "shared_kv_states",
    "perm_mask",
)


@dataclass(frozen=True)
class Specimen:
    """One architecture: its class, the file with it, and the model types it serves."""

    architecture: str
    path: Path
    model_types: tuple[str, ...]

    @property
    def module(self) -> str:
        """Name of the module of the class, `transformers.models.<folder>.<file>`."""
        return f"transformers.models.{self.path.parent.name}.{self.path.stem}"


@cache
def list_zoo() -> tuple[Specimen, ...]:
    """Every specimen, in the order of the architectures' names."""
    root = transformers_root() / "models"
    maps = read_mappings(root / "auto" / "modeling_auto.py")
    types: dict[str, list[str]] = {}
    for model_type, architecture in maps[CAUSAL].items():
        types.setdefault(architecture, []).append(model_type)
    specimens = []
    for model_type, base in maps.get(BASE, {}).items():
        architecture = base.removesuffix("Model") + "ForCausalLM"
        if base.endswith("Model") and model_type not in maps[CAUSAL]:
            types.setdefault(architecture, [model_type])
    for path, node in _classes(root, set(types)):
        mapped = tuple(types[node.name])
        if _is_decoder_only(node, mapped, maps):
            specimens.append(Specimen(node.name, path, mapped))
    return tuple(sorted(specimens, key=lambda s: s.architecture.lower()))


def find(names: list[str]) -> list[Specimen]:
    """The specimens of these architectures, model types or folders; all for none.

    Raises UsageError for a name that the zoo doesn't have.
    """
    if not names:
        return list(list_zoo())
    found: list[Specimen] = []
    for name in names:
        matches = [
            s
            for s in list_zoo()
            if name in (s.architecture, s.path.parent.name, *s.model_types)
        ]
        if not matches:
            raise UsageError(f"{name}: no decoder-only causal LM of that name is here")
        found += [s for s in matches if s not in found]
    return found


def read_mappings(path: Path) -> dict[str, dict[str, str]]:
    """The literal tables of `modeling_auto.py`: table name -> model type -> class."""
    tables: dict[str, dict[str, str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if len(node.value.args) != 1 or not isinstance(node.value.args[0], ast.List):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name):
            tables[target.id] = dict(_string_pairs(node.value.args[0]))
    if CAUSAL not in tables:
        raise UsageError(f"{path} has no {CAUSAL}: a transformers unknown to porter")
    return tables


def _string_pairs(node: ast.List) -> Iterator[tuple[str, str]]:
    for element in node.elts:
        match element:
            case ast.Tuple(
                elts=[ast.Constant(value=str(key)), ast.Constant(value=str(value))]
            ):
                yield key, value


def _classes(root: Path, names: set[str]) -> Iterator[tuple[Path, ast.ClassDef]]:
    """Definitions of the named classes in the modeling files."""
    for path in sorted(root.glob("*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        # Parsing is the cost of the listing, so only the files that define one.
        if not names.isdisjoint(re.findall(r"^class (\w+)", text, re.MULTILINE)):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name in names:
                    yield path, node


def _is_decoder_only(
    node: ast.ClassDef,
    model_types: tuple[str, ...],
    maps: dict[str, dict[str, str]],
) -> bool:
    arguments = _forward_arguments(node)
    if "input_ids" not in arguments or "ConditionalGeneration" in node.name:
        return False
    if any(name.startswith(OTHER_INPUTS) for name in arguments):
        return False
    if any(t in maps.get(table, {}) for t in model_types for table in SEQ_TO_SEQ):
        return False
    if any(maps.get(MASKED, {}).get(t) == node.name for t in model_types):
        return False
    return not ("encoder_hidden_states" in arguments and _asks_whether_decoder(node))


def _forward_arguments(node: ast.ClassDef) -> set[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "forward":
            found = [*item.args.args, *item.args.kwonlyargs]
            return {argument.arg for argument in found}
    return set()


def _asks_whether_decoder(node: ast.ClassDef) -> bool:
    """Whether the code (not the text) of a class names a decoder switch."""
    return any(
        isinstance(item, ast.Attribute) and item.attr == "is_decoder"
        for item in ast.walk(node)
    )
