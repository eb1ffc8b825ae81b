"""Two generated files, equal up to the names that the variant gave."""

import ast
import re
from collections.abc import Iterator

from tests.metamorphic.names import stored
from tests.metamorphic.rename import Names

TOKEN = re.compile(r"[A-Za-z_]\w*")


class Differs(Exception):
    """The first place where two outputs differ, as `line: this | that`."""


def difference(original: str, variant: str, names: Names | None = None) -> str | None:
    """None where the files are equal but for `names`, else the first difference.

    Comments and docstrings don't count. Attributes of self and paths in strings must be
    renamed as `names` says; a local may take any name.
    """
    one, two = ast.parse(original), ast.parse(variant)
    try:
        _Walk(names or Names()).same(without_docstrings(one), without_docstrings(two))
    except Differs as found:
        return str(found)
    return None


def _rules(table: ast.expr) -> list[ast.Tuple]:
    assert isinstance(table, ast.Dict)
    pairs = zip(table.keys, table.values, strict=True)
    return [ast.Tuple([k, v], ast.Load()) for k, v in pairs if k is not None]


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
    """Walks both trees at once; raises Differs.

    A local is the value that it holds: every assignment makes a new one, for both
    sides at once, so reusing a name for another value is not a difference.
    """

    def __init__(self, names: Names):
        self.names = names
        self.values = _Values()
        self.attributes: tuple[dict[str, str], dict[str, str]] = ({}, {})
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
        self.parts(one, two, *one._fields)

    def parts(self, one: ast.AST, two: ast.AST, *fields: str) -> None:
        for field in fields:
            if field not in ("ctx", "type_comment", "kind"):
                self.same(getattr(one, field, None), getattr(two, field, None))

    def fail(self, one: object, two: object) -> None:
        raise Differs(f"line {self.line}: {_shown(one)} | {_shown(two)}")

    def same_rules(self, one: ast.keyword, two: ast.keyword) -> bool:
        """transformers' own renamings of a checkpoint are the same text on both sides:
        the names in that table are the library's, not the author's."""
        pair = one.value, two.value
        if one.arg == "orig_to_new_regex" and all(
            isinstance(d, ast.Dict) for d in pair
        ):
            mine, yours = (_rules(d) for d in pair)
            if len(mine) == len(yours):
                for a, b in zip(mine, yours, strict=True):
                    if ast.dump(a) != ast.dump(b):
                        self.same(a, b)
                return True
        return False

    # control flow: the order in which names are read and bound

    def same_Assign(self, one: ast.Assign, two: ast.Assign) -> None:
        self.parts(one, two, "value", "targets")

    def same_AnnAssign(self, one: ast.AnnAssign, two: ast.AnnAssign) -> None:
        self.parts(one, two, "annotation", "value", "target")

    def same_AugAssign(self, one: ast.AugAssign, two: ast.AugAssign) -> None:
        if isinstance(one.target, ast.Name) and isinstance(two.target, ast.Name):
            self.read(one.target.id, two.target.id)
        self.parts(one, two, "op", "value", "target")

    def same_NamedExpr(self, one: ast.NamedExpr, two: ast.NamedExpr) -> None:
        self.parts(one, two, "value", "target")

    def same_If(self, one: ast.If, two: ast.If) -> None:
        self.same(one.test, two.test)
        before = self.values.state()
        self.same(one.body, two.body)
        after = self.values.state()
        self.values.restore(before)
        self.same(one.orelse, two.orelse)
        self.values.join(after)

    def same_For(self, one: ast.For, two: ast.For) -> None:
        self.same(one.iter, two.iter)
        before = self.values.enter_loop(stored(one), stored(two), self.line)
        self.parts(one, two, "target", "body")
        self.values.join(before)
        self.same(one.orelse, two.orelse)

    def comprehension(self, one: ast.AST, two: ast.AST) -> None:
        before = self.values.state()
        self.parts(one, two, "generators", "elt", "key", "value")
        self.values.restore(before)

    same_ListComp = same_SetComp = same_GeneratorExp = same_DictComp = comprehension

    def same_comprehension(
        self, one: ast.comprehension, two: ast.comprehension
    ) -> None:
        self.parts(one, two, "iter", "target", "ifs", "is_async")

    def same_Lambda(self, one: ast.Lambda, two: ast.Lambda) -> None:
        before = self.values.state()
        self.parts(one, two, "args", "body")
        self.values.restore(before)

    # names

    def same_Name(self, one: ast.Name, two: ast.Name) -> None:
        if isinstance(one.ctx, ast.Load):
            self.read(one.id, two.id)
        elif self.in_class_body:
            self.same(one.id, two.id)
        else:
            self.values.bind(one.id, two.id)

    def read(self, one: str, two: str) -> None:
        mine, yours = self.values.read(one, two)
        if mine != yours:
            self.fail(one, two)
        if mine is None and two != self.names.globals.get(one, one):
            self.fail(one, two)

    def same_arg(self, one: ast.arg, two: ast.arg) -> None:
        self.same(one.annotation, two.annotation)
        if one.arg != two.arg and self.names.locals.get(one.arg) != two.arg:
            self.fail(one.arg, two.arg)
        self.values.bind(one.arg, two.arg)

    def same_keyword(self, one: ast.keyword, two: ast.keyword) -> None:
        if self.same_rules(one, two):
            return
        if one.arg != two.arg and self.names.locals.get(one.arg or "") != two.arg:
            self.fail(f"{one.arg}=", f"{two.arg}=")
        self.same(one.value, two.value)

    def same_Attribute(self, one: ast.Attribute, two: ast.Attribute) -> None:
        if two.attr not in (one.attr, self.names.attributes.get(one.attr)):
            self.fail(one, two)
        if _on_self(one):
            self.one_to_one(one.attr, two.attr)
        self.same(one.value, two.value)

    def one_to_one(self, one: str, two: str) -> None:
        """In a class an attribute has one name: the source's new one or porter's."""
        there, back = self.attributes
        if there.setdefault(one, two) != two or back.setdefault(two, one) != one:
            self.fail(f"self.{one} as self.{there[one]}", f"self.{two}")

    def same_FunctionDef(self, one: ast.FunctionDef, two: ast.FunctionDef) -> None:
        names = {**self.names.globals, **self.names.attributes}
        if two.name != names.get(one.name, one.name):
            self.fail(f"def {one.name}", f"def {two.name}")
        before = self.values.state(), self.in_path, self.in_class_body
        self.in_path = self.in_class_body = False
        self.parts(one, two, "decorator_list", "args", "body", "returns")
        self.values.restore(before[0])
        self.in_path, self.in_class_body = before[1:]

    in_class_body = True  # or in the module's: names there aren't locals

    def same_ClassDef(self, one: ast.ClassDef, two: ast.ClassDef) -> None:
        if two.name != self.names.globals.get(one.name, one.name):
            self.fail(f"class {one.name}", f"class {two.name}")
        self.attributes = ({}, {})
        self.parts(one, two, "bases", "keywords", "decorator_list")
        # Class-level strings are weight names, prefixes and packed modules.
        self.in_path = True
        self.same(one.body, two.body)
        self.in_path = False

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
        names = self.names
        renamed = {**names.globals, **names.attributes}.get(old, old)
        if new in (renamed, names.locals.get(old)):
            return
        if new == old and not self.in_path:
            return
        if new == old and self.attributes[0].get(old) == old:
            return  # porter's own attribute, which only looks like the source's
        self.fail(repr(old), repr(new))


class _Values:
    """Which value each name holds, on both sides, in the function being walked."""

    def __init__(self) -> None:
        self.count = 0
        self.one: dict[str, int] = {}
        self.two: dict[str, int] = {}
        self.joined: dict[tuple[int | None, int | None], int] = {}

    def bind(self, one: str, two: str) -> None:
        self.count += 1
        self.one[one] = self.two[two] = self.count

    def read(self, one: str, two: str) -> tuple[int | None, int | None]:
        return self.one.get(one), self.two.get(two)

    def state(self) -> "_State":
        return dict(self.one), dict(self.two)

    def restore(self, state: "_State") -> None:
        self.one, self.two = dict(state[0]), dict(state[1])

    def join(self, other: "_State") -> None:
        """After a branch: a name holds one value or the other."""
        self.one = self._join(self.one, other[0])
        self.two = self._join(self.two, other[1])

    def _join(self, now: dict[str, int], other: dict[str, int]) -> dict[str, int]:
        return {
            name: self._either(now.get(name), other.get(name))
            for name in {*now, *other}
        }

    def _either(self, now: int | None, other: int | None) -> int:
        if now == other and now is not None:
            return now
        if (now, other) not in self.joined:
            self.count += 1
            self.joined[now, other] = self.count
        return self.joined[now, other]

    def enter_loop(self, one: set[str], two: set[str], loop: int) -> "_State":
        """Names assigned in the loop hold, in its body, this or an earlier round's."""
        before = self.state()
        for names, values in ((one, self.one), (two, self.two)):
            for name in names & set(values):
                values[name] = self._either(values[name], -loop)
        return before


_State = tuple[dict[str, int], dict[str, int]]


def _tokens(text: str) -> Iterator[str]:
    return (match[0] for match in TOKEN.finditer(text))


def _on_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _shown(value: object) -> str:
    text = ast.unparse(value) if isinstance(value, ast.AST) else str(value)
    first = text.strip().splitlines()[0] if text.strip() else repr(text)
    return first if len(first) <= 70 else first[:67] + "..."
