"""What ports can import, and that it is shaped as in the installed vLLM.

vLLM is read, not imported: the comparison runs where its files are, in this
environment or in the folder that PORTER_VLLM_SOURCE names.
"""

import ast
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from porter.gap import CannotRun, UsageError
from porter.runtime.port import find_architecture, load_port
from porter.runtime.surface import SURFACE
from tests.runtime.reference import PORTS


def write(folder: Path, text: str) -> Path:
    path = folder / "port.py"
    path.write_text(text)
    return path


def test_a_port_sees_the_surface_and_nobody_else_does(tmp_path: Path) -> None:
    port = write(
        tmp_path,
        "import vllm.config\n"
        "import vllm.distributed as d\n"
        "from vllm.model_executor.layers.linear import RowParallelLinear\n"
        "def later():\n"
        "    from vllm.sequence import IntermediateTensors\n"
        "    return IntermediateTensors\n",
    )
    before = set(sys.modules)
    module = load_port(port)
    names = SURFACE["vllm.model_executor.layers.linear"]
    assert module.RowParallelLinear is names["RowParallelLinear"]
    assert module.vllm.config.VllmConfig is SURFACE["vllm.config"]["VllmConfig"]
    assert module.d.get_pp_group().world_size == 1
    assert module.later() is SURFACE["vllm.sequence"]["IntermediateTensors"]
    new = set(sys.modules) - before
    assert not any(name.split(".")[0] == "vllm" for name in new)
    assert load_port(port).RowParallelLinear is module.RowParallelLinear


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("from vllm.model_executor.layers.linear import Mystery", "linear.Mystery"),
        ("from vllm.mystery import Thing", "module vllm.mystery"),
        ("import vllm.config; vllm.config.Mystery", "vllm.config.Mystery"),
    ],
)
def test_a_missing_name_is_said(line: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=f"the bundled runtime has no .*{missing}"):
        load_port(write(tmp_path, line))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", "no Python"),
        ("x = 1\ny = 1 / 0\n", "port.py:2: the port fails: ZeroDivisionError"),
        ("import a_module_that_nobody_has\n", "port.py:1: .*ModuleNotFoundError"),
        ("\0", "no Python"),
    ],
)
def test_a_broken_port_is_one_message(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_port(write(tmp_path, text))


def test_no_port(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read the port"):
        load_port(tmp_path / "nothing.py")


def test_model_class_is_found_by_name_or_alone(tmp_path: Path) -> None:
    module = load_port(PORTS / "rope_decoder.py")
    assert find_architecture(module, ["Other"]).__name__ == "RopeForCausalLM"
    two = (PORTS / "rope_decoder.py").read_text()
    two += "\n\nclass SecondForCausalLM(RopeForCausalLM):\n    pass\n"
    module = load_port(write(tmp_path, two))
    found = find_architecture(module, ["SecondForCausalLM"])
    assert found.__name__ == "SecondForCausalLM"
    with pytest.raises(UsageError, match="RopeForCausalLM, SecondForCausalLM and not"):
        find_architecture(module, ["Other"])
    with pytest.raises(UsageError, match="model classes: none"):
        find_architecture(load_port(write(tmp_path, "x = 1")), None)


# The comparison with vLLM. ---------------------------------------------------------


def vllm_source() -> Path | None:
    named = os.environ.get("PORTER_VLLM_SOURCE")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


SOURCE = vllm_source()
needs_vllm = pytest.mark.skipif(
    SOURCE is None, reason="vLLM's files aren't here (PORTER_VLLM_SOURCE names them)"
)


def module_tree(name: str) -> ast.Module:
    assert SOURCE is not None
    path = SOURCE.joinpath(*name.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def definition(module: str, name: str) -> Any:
    """The last def, class or assignment of a name, through re-exports."""
    tree = module_tree(module)
    found: Any = None
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = node if node.name == name else found
        elif isinstance(node, ast.Assign):
            if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                found = node
        elif isinstance(node, ast.ImportFrom):
            source = imported_from(module, node)
            aliases = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in aliases:
                found = definition(source, aliases[name])
            elif "*" in aliases and found is None:
                found = definition(source, name)
    return found


def imported_from(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    assert SOURCE is not None
    package = module.split(".")
    if not SOURCE.joinpath(*package[1:]).is_dir():
        package = package[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, node.module] if node.module else package)


def constructor(module: str, node: ast.ClassDef) -> ast.FunctionDef | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    for base in node.bases:
        if isinstance(base, ast.Name):
            parent = definition(module, base.id)
            if isinstance(parent, ast.ClassDef):
                return constructor(module, parent)
    return None


def parameters_of_vllm(function: ast.FunctionDef) -> dict[str, tuple[str, str]]:
    """Name -> (kind, default as text)."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    missing = len(positional) - len(args.defaults)
    defaults: list[Any] = [None] * missing + list(args.defaults)
    found = {
        arg.arg: ("positional", text(default))
        for arg, default in zip(positional, defaults, strict=True)
    }
    for arg, keyword_default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found[arg.arg] = ("keyword", text(keyword_default))
    found.pop("self", None)
    return found


def text(default: Any) -> str:
    if default is None:
        return "required"
    try:
        return repr(ast.literal_eval(default))
    except ValueError:
        return "computed"


def parameters_of_ours(function: Any) -> dict[str, tuple[str, str]]:
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        default = repr(parameter.default)
        if parameter.default is parameter.empty:
            default = "required"
        found[name] = ("keyword" if keyword else "positional", default)
    found.pop("self", None)
    return found


SYMBOLS = [(module, name) for module, names in SURFACE.items() for name in names]

# Configuration objects are built by the engine, never by a port: only their names and
# the attributes that ports read have to agree.
BUILT_BY_THE_ENGINE = {name for name in SURFACE["vllm.config"] if "Config" in name}
BUILT_BY_THE_ENGINE |= {"ForwardContext", "QuantizationConfig", "QuantizeMethodBase"}
# vLLM's own are wrappers or parts of its layers that ports name but don't call.
NOT_CALLED = {
    "support_torch_compile",
    "UnquantizedLinearMethod",
    "UnquantizedEmbeddingMethod",
    "LinearBase",
    "RotaryEmbedding",
    "AttentionType",
    # What FusedMoEFactory makes; ports call the factory.
    "MoERunner",
    "RoutedExperts",
}
# Parameters of vLLM's that the bundled runtime doesn't take.
LEFT_OUT = {
    "VocabParallelEmbedding": {"quant_method", "parallel_group"},
}


@needs_vllm
@pytest.mark.parametrize(("module", "name"), SYMBOLS)
def test_symbol_is_where_vllm_has_it(module: str, name: str) -> None:
    assert definition(module, name) is not None


@needs_vllm
@pytest.mark.parametrize(("module", "name"), SYMBOLS)
def test_signature_is_vllms(module: str, name: str) -> None:
    ours = SURFACE[module][name]
    theirs = definition(module, name)
    if name in BUILT_BY_THE_ENGINE | NOT_CALLED or isinstance(theirs, ast.Assign):
        return
    if isinstance(theirs, ast.ClassDef):
        made = constructor(module, theirs)
        if made is None:
            check_fields(ours, theirs)
            return
        expected = parameters_of_vllm(made)
    else:
        expected = parameters_of_vllm(theirs)
    got = parameters_of_ours(ours)
    for left_out in LEFT_OUT.get(name, ()):
        expected.pop(left_out)
    assert list(got) == list(expected)
    for parameter, (kind, default) in expected.items():
        assert got[parameter][0] == kind, parameter
        if default != "computed":
            assert got[parameter][1] == default, parameter


def check_fields(ours: Any, theirs: ast.ClassDef) -> None:
    """A dataclass has the same fields; a class that is a mere mark has none."""
    if not any("dataclass" in ast.unparse(d) for d in theirs.decorator_list):
        return
    fields = [
        item.target.id
        for item in theirs.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    assert list(parameters_of_ours(ours)) == fields


FORWARDS = [
    ("attention", "Attention"),
    ("layernorm", "RMSNorm"),
    ("layernorm", "GemmaRMSNorm"),
    ("layernorm", "LayerNorm"),
    ("linear", "ColumnParallelLinear"),
    ("linear", "RowParallelLinear"),
    ("linear", "ReplicatedLinear"),
    ("logits_processor", "LogitsProcessor"),
    ("vocab_parallel_embedding", "VocabParallelEmbedding"),
]


@needs_vllm
@pytest.mark.parametrize(("file", "name"), FORWARDS)
def test_forward_takes_what_vllms_takes(file: str, name: str) -> None:
    module = f"vllm.model_executor.layers.{file}"
    node = definition(module, name)
    methods = {i.name: i for i in node.body if isinstance(i, ast.FunctionDef)}
    theirs = methods.get("forward", methods.get("forward_native"))
    assert theirs is not None
    ours = SURFACE[module][name].forward
    assert list(parameters_of_ours(ours)) == list(parameters_of_vllm(theirs))
