"""Two generated files, equal up to the names that the variant gave."""

import ast
import re
from collections.abc import Iterator

from tests.metamorphic.rename import Names

TOKEN = re.compile(r"[A-Za-z_]\w*")


class Differs(Exception):
    """The first place where two outputs differ, as `line: this | that`."""


def difference(original: str, variant: str, names: Names | None = None) -> str | None:
    """None where the files are equal but for `names`, else the first difference.

    Comments and docstrings don't count. Attributes of self and dotted paths in strings
    must be renamed exactly as `names` says; locals may take any names, one to one in
    each function.
    """
    one, two = ast.parse(original), ast.parse(variant)
    try:
        _Walk(names or Names()).same(without_docstrings(one), without_docstrings(two))
    except Differs as found:
        return str(found)
    return None


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


class _Walk:
    """Walks both trees at once; raises Differs."""

    def __init__(self, names: Names):
        self.names = names
        self.there: dict[str, str] = {}
        self.back: dict[str, str] = {}
        self.line = 0
        self.in_path = False

    def same(self, one: object, two: object) -> None:
        if isinstance(one, ast.AST) and isinstance(two, ast.AST):
            self.line = getattr(two, "lineno", self.line)
            if type(one) is not type(two):
                self.fail(one, two)
            getattr(self, f"same_{type(one).__name__}", self.children)(one, two)
        elif isinstance(one, list) and isinstance(two, list):
            for mine, yours in zip(one, two, strict=False):
                self.same(mine, yours)
            if len(one) != len(two):
                longer = one if len(one) > len(two) else two
                extra = longer[min(len(one), len(two))]
                side = "only in the original's" if longer is one else "only here"
                self.fail(extra, side)
        elif one != two:
            self.fail(one, two)

    def children(self, one: ast.AST, two: ast.AST) -> None:
        for field in one._fields:
            if field not in ("ctx", "type_comment", "kind"):
                self.same(getattr(one, field, None), getattr(two, field, None))

    def fail(self, one: object, two: object) -> None:
        raise Differs(f"line {self.line}: {_shown(one)} | {_shown(two)}")

    # names

    def same_Name(self, one: ast.Name, two: ast.Name) -> None:
        expected = self.names.globals.get(one.id)
        if expected is not None and expected == two.id:
            return
        self.local(one.id, two.id)

    def local(self, one: str, two: str) -> None:
        if self.there.setdefault(one, two) != two:
            self.fail(f"{one} -> {self.there[one]}", two)
        if self.back.setdefault(two, one) != one:
            self.fail(f"{self.back[two]} -> {two}", f"{one} -> {two}")

    def same_arg(self, one: ast.arg, two: ast.arg) -> None:
        self.local(one.arg, two.arg)
        self.same(one.annotation, two.annotation)

    def same_keyword(self, one: ast.keyword, two: ast.keyword) -> None:
        if one.arg != two.arg and self.names.locals.get(one.arg or "") != two.arg:
            self.fail(f"{one.arg}=", f"{two.arg}=")
        self.same(one.value, two.value)

    def same_Attribute(self, one: ast.Attribute, two: ast.Attribute) -> None:
        renamed = self.names.attributes.get(one.attr, one.attr)
        allowed = {renamed} if _on_self(one) else {renamed, one.attr}
        if two.attr not in allowed:
            self.fail(one, two)
        self.same(one.value, two.value)

    def same_FunctionDef(self, one: ast.FunctionDef, two: ast.FunctionDef) -> None:
        names = {**self.names.globals, **self.names.attributes}
        if two.name != names.get(one.name, one.name):
            self.fail(f"def {one.name}", f"def {two.name}")
        outer = self.there, self.back
        self.there, self.back = dict(outer[0]), dict(outer[1])
        for field in ("args", "body", "decorator_list", "returns"):
            self.same(getattr(one, field), getattr(two, field))
        self.there, self.back = outer

    def same_ClassDef(self, one: ast.ClassDef, two: ast.ClassDef) -> None:
        if two.name != self.names.globals.get(one.name, one.name):
            self.fail(f"class {one.name}", f"class {two.name}")
        for field in ("bases", "keywords", "decorator_list"):
            self.same(getattr(one, field), getattr(two, field))
        # Class-level strings are weight names, prefixes and packed modules.
        for mine, yours in zip(one.body, two.body, strict=False):
            self.in_path = not isinstance(mine, ast.FunctionDef)
            self.same(mine, yours)
            self.in_path = False
        if len(one.body) != len(two.body):
            self.same(one.body, two.body)

    # strings

    def same_JoinedStr(self, one: ast.JoinedStr, two: ast.JoinedStr) -> None:
        constants = [
            str(part.value) for part in one.values if isinstance(part, ast.Constant)
        ]
        self.in_path = all(" " not in text for text in constants)
        self.children(one, two)
        self.in_path = False

    def same_Constant(self, one: ast.Constant, two: ast.Constant) -> None:
        mine, yours = one.value, two.value
        if isinstance(mine, str) and isinstance(yours, str):
            if TOKEN.split(mine) != TOKEN.split(yours):
                self.fail(repr(mine), repr(yours))
            for old, new in zip(_tokens(mine), _tokens(yours), strict=True):
                self.token(old, new)
        elif type(mine) is not type(yours) or mine != yours:
            self.fail(repr(mine), repr(yours))

    def token(self, old: str, new: str) -> None:
        renamed = {**self.names.globals, **self.names.attributes}.get(old, old)
        if new == renamed or (new == old and not self.in_path):
            return
        self.fail(repr(old), repr(new))


def _tokens(text: str) -> Iterator[str]:
    return (match[0] for match in TOKEN.finditer(text))


def _on_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _shown(value: object) -> str:
    text = ast.unparse(value) if isinstance(value, ast.AST) else str(value)
    first = text.strip().splitlines()[0] if text.strip() else repr(text)
    return first if len(first) <= 70 else first[:67] + "..."
