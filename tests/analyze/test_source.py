"""Reading files: what names are bound to, imports, and what is changed afterwards."""

from pathlib import Path

import pytest

from porter.analyze.values import Class, External, Function
from porter.gap import UsageError
from porter.source import SourceFile, SourceSet


def loaded(tmp_path: Path, text: str, **others: str) -> tuple[SourceSet, SourceFile]:
    for name, content in others.items():
        (tmp_path / f"{name}.py").write_text(content, encoding="utf-8")
    sources = SourceSet()
    return sources, sources.load(tmp_path / "modeling.py", text)


def found(tmp_path: Path, text: str, name: str = "f", **others: str):
    sources, file = loaded(tmp_path, text, **others)
    return sources.lookup(file, name)


def test_external_names_under_their_full_name(tmp_path: Path) -> None:
    text = "import torch.nn as n\nimport torch.nn\nfrom torch.nn import Linear as L\n"
    names = {"n": "torch.nn", "torch": "torch", "L": "torch.nn.Linear"}
    for name, full in names.items():
        value = found(tmp_path, text, name)
        assert isinstance(value, External) and value.name == full


@pytest.mark.parametrize("where", [".other", "other"])
def test_an_import_of_a_file_beside_it_is_followed(tmp_path: Path, where: str) -> None:
    text = f"from {where} import g as f\n"
    value = found(tmp_path, text, other="def g(x):\n    return x\n")
    assert isinstance(value, Function) and value.file.path.name == "other.py"


def test_an_import_of_an_import_is_followed(tmp_path: Path) -> None:
    value = found(
        tmp_path,
        "from .one import g as f\n",
        one="from .two import h as g\n",
        two="class h:\n    pass\n",
    )
    assert isinstance(value, Class) and value.name == "h"


def test_another_model_s_file_is_read_and_the_library_is_not(tmp_path: Path) -> None:
    model = "transformers.models.llama.modeling_llama"
    value = found(tmp_path, f"from {model} import LlamaMLP as f\n")
    assert isinstance(value, Class)
    text = "from transformers.modeling_layers import GradientCheckpointingLayer as f\n"
    assert isinstance(found(tmp_path, text), External)


@pytest.mark.parametrize("package", ["transformers", "transformers.models.llama"])
@pytest.mark.parametrize("name", ["LlamaConfig", "LlamaModel"])
def test_a_model_s_class_is_read_wherever_it_is_imported_from(
    tmp_path: Path, package: str, name: str
) -> None:
    value = found(tmp_path, f"from {package} import {name} as f\n")
    assert isinstance(value, Class) and value.name == name
    assert value.file.path.parent.name == "llama"
    text = f"import transformers\nclass f({package}.{name}):\n    pass\n"
    (base,) = found(tmp_path, text).bases
    assert isinstance(base, Class) and base.name == name


@pytest.mark.parametrize(
    "name", ["PreTrainedModel", "AutoModel", "AutoModelForCausalLM", "Cache", "Llama"]
)
def test_what_is_no_model_s_class_stays_the_library_s(
    tmp_path: Path, name: str
) -> None:
    value = found(tmp_path, f"from transformers import {name} as f\n")
    assert isinstance(value, External) and value.name == f"transformers.{name}"


def test_a_name_bound_again_is_the_last(tmp_path: Path) -> None:
    definition = "def f(x):\n    return x\n"
    imported = "from torch import relu as f\n"
    assert isinstance(found(tmp_path, imported + definition), Function)
    value = found(tmp_path, definition + imported)
    assert isinstance(value, External) and value.name == "torch.relu"


def test_a_name_assigned_after_its_import_is_the_assignment(tmp_path: Path) -> None:
    value = found(tmp_path, "from torch import relu as f\nf = 3\n")
    assert getattr(value, "value", None) == 3


def test_an_import_under_try_is_kept(tmp_path: Path) -> None:
    text = "try:\n    from torch import relu as f\nexcept ImportError:\n    f = None\n"
    value = found(tmp_path, text)
    assert isinstance(value, External) and value.name == "torch.relu"


@pytest.mark.parametrize(
    "patch",
    [
        "A.f = None",
        "A.__dict__['f'] = None",
        "setattr(A, 'f', None)",
        "exec('A = 1')",
        "del A",
        "for f in ():\n    pass",
        "if True:\n    A.f = None",
    ],
)
def test_a_change_after_the_definition_is_noticed(tmp_path: Path, patch: str) -> None:
    text = "class A:\n    def f(self):\n        return 1\n"
    assert loaded(tmp_path, f"{text}{patch}\n")[1].patched
    assert not loaded(tmp_path, text)[1].patched


def test_bases_are_looked_up(tmp_path: Path) -> None:
    text = (
        "import torch.nn as nn\n\n\nclass B(nn.Module):\n    x = 1\n\n\n"
        "class f(B):\n    y = 2\n"
    )
    value = found(tmp_path, text)
    (base,) = value.bases
    assert isinstance(base, Class) and base.name == "B"
    assert [each.name for each in base.bases] == ["torch.nn.Module"]


def test_the_licence_is_the_comment_with_the_copyright(tmp_path: Path) -> None:
    licence = "# Copyright 2026 the birds.\n#\n# Licensed to all.\n"
    text = f"{licence}\n# Something else.\nimport torch\n"
    assert loaded(tmp_path, text)[1].licence == licence.strip()
    assert loaded(tmp_path, "# A file.\nimport torch\n")[1].licence == ""


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    sources = SourceSet()
    with pytest.raises(UsageError, match="can't be read"):
        sources.load(tmp_path / "nothing.py")
    with pytest.raises(UsageError, match="2: not Python"):
        sources.load(tmp_path / "wrong.py", "x = 1\ndef\n")
