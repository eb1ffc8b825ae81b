"""What a valid vLLM model file is, stated once, and checked on every port.

- Methods read only attributes that the constructor sets, or that nn.Module has.
- Each argument of a method is used; each import, and each local name, is used.
- Each layer's `prefix` is its attribute path.
- No cache, mask, dropout or batch axis is left.
- torch, vllm and the standard library are all that is imported.
"""

import ast
from typing import TypeGuard

from porter.gap import Gap, Refused

_MODULE_ATTRIBUTES = {
    "training", "register_buffer", "register_parameter", "named_parameters",
    "named_buffers",
}  # fmt: skip
_LEFTOVERS = {
    "attention_mask",
    "past_key_values",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "dropout",
}
_INTERFACE = {
    "embed_input_ids", "get_input_embeddings", "forward", "compute_logits", "load_weights",
}  # fmt: skip
_ROOTS = {"torch", "vllm", "re", "collections", "itertools", "math"}


def check(text: str, source: str, line: int) -> None:
    """Raise Refused, at the class that is ported, where the text breaks a rule."""
    tree = ast.parse(text)
    faults = [*_imports(tree)]
    for cls in [n for n in tree.body if isinstance(n, ast.ClassDef)]:
        faults += _class_faults(cls)
    if faults:
        raise Refused(
            [
                Gap(
                    source,
                    line,
                    f"the port would be wrong: {faults[0]}",
                    "this is a fault of porter's: please report it",
                )
            ]
        )


def _imports(tree: ast.Module) -> list[str]:
    faults = []
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            root = node.names[0].name.split(".")[0]
        else:
            continue
        if root not in _ROOTS:
            faults.append(f"it imports {root}")
        for alias in node.names:
            name = (alias.asname or alias.name).split(".")[0]
            if name not in used:
                faults.append(f"the import of {name} isn't used")
    return faults


def _class_faults(cls: ast.ClassDef) -> list[str]:
    methods = [n for n in cls.body if isinstance(n, ast.FunctionDef)]
    held = {
        n.targets[0].id
        for n in cls.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    held |= {m.name for m in methods} | _MODULE_ATTRIBUTES
    for method in methods:
        if method.name == "__init__":
            held |= _stored(method)
    faults = []
    for method in methods:
        for node in ast.walk(method):
            if (
                _is_self(node)
                and isinstance(node.ctx, ast.Load)
                and node.attr not in held
            ):
                faults.append(f"{cls.name}.{node.attr} is read but never set")
        faults += _unused(cls, method)
        if method.name == "__init__":
            faults += _prefixes(cls, method)
    return faults


def _stored(method: ast.FunctionDef) -> set[str]:
    found = set()
    for node in ast.walk(method):
        if _is_self(node) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "register_buffer" and isinstance(
                node.args[0], ast.Constant
            ):
                found.add(str(node.args[0].value))
    return found


def _is_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def _unused(cls: ast.ClassDef, method: ast.FunctionDef) -> list[str]:
    args = [a.arg for a in (*method.args.args, *method.args.kwonlyargs)][1:]
    names = [n for n in ast.walk(method) if isinstance(n, ast.Name)]
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    faults = []
    for arg in args:
        if arg in _LEFTOVERS:
            faults.append(f"{cls.name}.{method.name} still takes {arg}")
        elif arg not in read and method.name not in _INTERFACE:
            faults.append(f"{cls.name}.{method.name} doesn't use {arg}")
    if method.name != "forward":
        return faults
    for name in {n.id for n in names if isinstance(n.ctx, ast.Store)} - {"_"}:
        if name not in read:
            faults.append(f"{cls.name}.forward doesn't use its {name}")
    return faults


def _prefixes(cls: ast.ClassDef, method: ast.FunctionDef) -> list[str]:
    """`self.x = Layer(..., prefix=f"{prefix}.x")`"""
    faults = []
    for node in ast.walk(method):
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Tuple):
            target = target.elts[-1]
        if not _is_self(target):
            continue
        allowed = {target.attr, *_numbered(target.attr, node.value)}
        for call in ast.walk(node.value):
            if isinstance(call, ast.Call):
                given = _prefix_of(call)
                if given is not None and given not in allowed:
                    faults.append(f"{cls.name}.{target.attr} has the prefix {given}")
    return faults


def _numbered(attr: str, value: ast.expr) -> list[str]:
    """`mlp.0`, `mlp.2` of `self.mlp = nn.ModuleDict({"0": ..., "2": ...})`"""
    keys = [
        str(key.value)
        for node in ast.walk(value)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    ]
    return [f"{attr}.{key}" for key in keys]


def _prefix_of(call: ast.Call) -> str | None:
    """The last part of a call's prefix argument; None where it has none of its own."""
    for keyword in call.keywords:
        value = keyword.value
        if keyword.arg != "prefix":
            continue
        if isinstance(value, ast.JoinedStr) and isinstance(
            value.values[-1], ast.Constant
        ):
            return str(value.values[-1].value).removeprefix(".")
        if isinstance(value, ast.Call) and len(value.args) == 2:
            return str(ast.literal_eval(value.args[1]))
    return None
