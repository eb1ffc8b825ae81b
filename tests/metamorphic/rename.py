"""Variants that rename: the class prefix, every class, attributes, locals, helpers."""

import ast
import os
import re
from dataclasses import dataclass, field

from tests.metamorphic.names import (
    author_attributes,
    author_functions,
    author_locals,
    author_methods,
    classes,
    rooted_at_self,
)

WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Names:
    """What was renamed, old name -> new. attributes holds modules, scalars, methods."""

    globals: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    locals: dict[str, str] = field(default_factory=dict)


def rename_prefix(text: str) -> tuple[str, Names]:
    """The prefix that all classes share becomes Zed; layout and comments stay."""
    found = [cls.name for cls in classes(ast.parse(text))]
    prefix = os.path.commonprefix(found)
    if not prefix:
        raise ValueError("the classes share no prefix")
    mapping = {name: "Zed" + name.removeprefix(prefix) for name in found}
    return _replace_words(text, mapping), Names(globals=mapping)


def rename_classes(text: str) -> tuple[str, Names]:
    """Every class but the causal LM's suffix loses its telling name."""
    mapping = {}
    for index, cls in enumerate(classes(ast.parse(text))):
        suffix = "ForCausalLM" if cls.name.endswith("ForCausalLM") else ""
        mapping[cls.name] = f"K{index}{suffix}"
    return _replace_words(text, mapping), Names(globals=mapping)


def _replace_words(text: str, mapping: dict[str, str]) -> str:
    return WORD.sub(lambda match: mapping.get(match[0], match[0]), text)


def rename_attributes(text: str) -> tuple[str, Names]:
    """Modules, scalars and private methods get names that tell nothing."""
    tree = ast.parse(text)
    author = [*author_attributes(tree), *author_methods(tree)]
    names = Names(attributes={old: f"za{i}" for i, old in enumerate(author)})
    return _unparsed(_Attributes(names.attributes).visit(tree)), names


def rename_locals(text: str) -> tuple[str, Names]:
    """Locals, parameters and helper functions get names that tell nothing."""
    tree = ast.parse(text)
    names = Names(
        globals={old: f"zf{i}" for i, old in enumerate(author_functions(tree))},
        locals={old: f"zl{i}" for i, old in enumerate(author_locals(tree))},
    )
    renamer = _Locals(names, set(author_attributes(tree)), tree)
    return _unparsed(renamer.visit(tree)), names


def rename_all(text: str) -> tuple[str, Names]:
    """All of it at once."""
    text, prefix = rename_prefix(text)
    text, attributes = rename_attributes(text)
    text, local = rename_locals(text)
    return text, Names(
        globals={**prefix.globals, **local.globals},
        attributes=attributes.attributes,
        locals=local.locals,
    )


def rename_parameters(text: str) -> tuple[str, Names]:
    """`self.weight` of the file's own norms becomes `self.zgain`.

    The checkpoint's names change with it, so a port needs another weight map: it is
    run, not compared.
    """
    tree = ast.parse(text)
    mapping = {"weight": "zgain"}
    for node in ast.walk(tree):
        if _defines_weight(node) or getattr(node, "name", "") == "_init_weights":
            for part in ast.walk(node):
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                    part.attr = mapping.get(part.attr, part.attr)
    return _unparsed(tree), Names(attributes=mapping)


def _defines_weight(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and part.attr == "weight"
        for part in ast.walk(node)
    )


def _unparsed(tree: ast.Module) -> str:
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Attributes(ast.NodeTransformer):
    """`self.x` everywhere, `module.x` in helpers, and the checkpoint's name strings."""

    def __init__(self, mapping: dict[str, str]):
        self.mapping = mapping
        self.modules: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer = self.modules
        self.modules = {
            arg.arg
            for arg in node.args.args
            if node.name == "_init_weights"
            or (
                arg.annotation is not None
                and ast.unparse(arg.annotation).endswith("nn.Module")
            )
        }
        if node.name in self.mapping:
            node.name = self.mapping[node.name]
        self.generic_visit(node)
        self.modules = outer
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        on_module = isinstance(node.value, ast.Name) and node.value.id in self.modules
        ours = on_module or rooted_at_self(node)
        self.generic_visit(node)
        if ours:
            node.attr = self.mapping.get(node.attr, node.attr)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for statement in node.body:
            if isinstance(statement, ast.Assign):
                _Strings(self.mapping).visit(statement.value)
        self.generic_visit(node)
        return node


class _Strings(ast.NodeTransformer):
    def __init__(self, mapping: dict[str, str]):
        self.mapping = mapping

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = _replace_words(node.value, self.mapping)
        return node


class _Locals(ast.NodeTransformer):
    def __init__(self, names: Names, attributes: set[str], tree: ast.Module):
        self.names = names
        self.attributes = attributes
        self.ours = {cls.name for cls in classes(tree)} | set(names.globals)
        self.bound: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer = self.bound
        self.bound = outer | {
            n.arg if isinstance(n, ast.arg) else n.id
            for n in ast.walk(node)
            if isinstance(n, ast.arg)
            or (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        }
        if not outer:
            node.name = self.names.globals.get(node.name, node.name)
        self.generic_visit(node)
        self.bound = outer
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.bound:
            node.id = self.names.locals.get(node.id, node.id)
        else:
            node.id = self.names.globals.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        self.generic_visit(node)
        node.arg = self.names.locals.get(node.arg, node.arg)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        ours = self._in_file(node.func)
        self.generic_visit(node)
        if ours:
            for keyword in node.keywords:
                if keyword.arg is not None:
                    keyword.arg = self.names.locals.get(keyword.arg, keyword.arg)
        return node

    def _in_file(self, callee: ast.expr) -> bool:
        """A class or helper of the file, a submodule, or a module in a local."""
        if isinstance(callee, ast.Name):
            return callee.id in self.ours or callee.id in self.bound
        return (
            isinstance(callee, ast.Attribute)
            and callee.attr in self.attributes
            and rooted_at_self(callee)
        )
