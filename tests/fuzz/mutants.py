"""Every small change of a source's expressions that stands on given lines.

Text is replaced where it stands, so comments, spacing and all other lines stay. What a
change means isn't known here: most compute something else, some nothing new, some can't
run; HuggingFace decides that by running them.
"""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

# A function for another of the same shape in and out.
RENAMED = {
    "sigmoid": "tanh",
    "tanh": "sigmoid",
    "silu": "relu",
    "gelu": "silu",
    "relu": "silu",
    "rsqrt": "sqrt",
    "sqrt": "rsqrt",
    "cos": "sin",
    "sin": "cos",
    "exp": "sigmoid",
    "mean": "sum",
    "square": "abs",
    "min": "max",
    "max": "min",
    "argmax": "argmin",
    "softmax": "log_softmax",
    "maximum": "minimum",
    "minimum": "maximum",
    "triu": "tril",
    "tril": "triu",
}
OPERATORS = {
    ast.Add: ("-",),
    ast.Sub: ("+",),
    ast.Mult: ("/", "+"),
    ast.Div: ("*",),
    ast.Pow: ("*",),
    ast.MatMult: (),
    ast.FloorDiv: (),
    ast.Mod: (),
    ast.BitAnd: ("|",),
    ast.BitOr: ("&",),
}
COMPARISONS = {
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
}


@dataclass(frozen=True)
class Mutant:
    """One change: the text between two offsets becomes `new`. line: 1-based."""

    line: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]

    def __str__(self) -> str:
        old, new = (" ".join(part.split()) for part in (self.old, self.new))
        return f"{self.line}: {old} -> {new}"


class Lines:
    """Offsets of a text's AST nodes."""

    def __init__(self, text: str):
        self.text = text
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._offset(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self._offset(node.end_lineno, node.end_col_offset),  # type: ignore
        )

    def _offset(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        row = self.text[start : self.starts[line]].encode()
        return start + len(row[:column].decode())

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]


def mutants(text: str, lines: set[int]) -> list[Mutant]:
    """Every change of an expression or statement that begins on one of `lines`."""
    where = Lines(text)
    found: dict[tuple[int, int, str], Mutant] = {}
    for node in _code(ast.parse(text)):
        if getattr(node, "lineno", 0) not in lines:
            continue
        for target, new in _changes(node, where):
            start, end = where.span(target)
            old = text[start:end]
            if old != new:
                made = Mutant(node.lineno, start, end, old, new)  # type: ignore
                found.setdefault((start, end, new), made)
    return list(found.values())


def sample(text: str, lines: set[int], count: int, seed: int) -> list[Mutant]:
    """`count` of the mutants, spread over the lines: a line is drawn, then a change."""
    by_line: dict[int, list[Mutant]] = {}
    for mutant in mutants(text, lines):
        by_line.setdefault(mutant.line, []).append(mutant)
    draw = random.Random(seed)
    chosen: list[Mutant] = []
    while by_line and len(chosen) < count:
        line = draw.choice(sorted(by_line))
        of_line = by_line[line]
        chosen.append(of_line.pop(draw.randrange(len(of_line))))
        if not of_line:
            del by_line[line]
    return chosen


def _code(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes inside function bodies: not their annotations, defaults and decorators."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from ast.walk(statement)


def _changes(node: ast.AST, where: Lines) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.BinOp():
            left, right = where.of(node.left), where.of(node.right)
            for sign in OPERATORS.get(type(node.op), ()):
                yield node, f"({left} {sign} {right})"
            if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                yield node, f"({left})"
                yield node, f"({right})"
            if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
                yield node, f"({right} {_sign(node.op)} {left})"
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node, f"({where.of(node.operand)})"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=float(value)):
            yield node, repr(value * 1.5 if value else 0.5)
        case ast.Constant(value=int(value)):
            yield node, repr(value + 1)
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            left, right = where.of(node.left), where.of(node.comparators[0])
            yield node, f"({left} {COMPARISONS[type(op)]} {right})"
        case ast.IfExp():
            body, other = where.of(node.body), where.of(node.orelse)
            yield node, f"({other} if {where.of(node.test)} else {body})"
        case ast.BoolOp():
            word = " or " if isinstance(node.op, ast.And) else " and "
            yield node, f"({word.join(where.of(value) for value in node.values)})"
        case ast.Call():
            yield from _call_changes(node, where)
        case ast.Slice(lower=low, upper=high, step=None):
            lower = where.of(low) if low else ""
            upper = where.of(high) if high else ""
            yield node, f"{upper}:{lower}"
        case ast.Assign(targets=[ast.Name()]) | ast.AugAssign(target=ast.Name()):
            assigned = where.of(node.value)
            yield node.value, f"({assigned}) * 1.25"
            yield node.value, f"({assigned}) + 0.125"
            yield node, "pass"
        case ast.Return(value=ast.expr() as result):
            yield result, f"({where.of(result)}) * 0.75"


def _sign(op: ast.operator) -> str:
    signs: dict[type, str] = {ast.Sub: "-", ast.Div: "/", ast.MatMult: "@"}
    return signs[type(op)]


def _call_changes(node: ast.Call, where: Lines) -> Iterator[tuple[ast.AST, str]]:
    name = node.func
    last = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
    if last in RENAMED:
        written = where.of(name)
        yield name, written[: len(written) - len(last)] + RENAMED[last]
    arguments = [where.of(argument) for argument in node.args]
    keywords = [where.of(keyword) for keyword in node.keywords]
    callee = where.of(name)
    for i in range(len(arguments) - 1):
        swapped = [*arguments]
        swapped[i], swapped[i + 1] = swapped[i + 1], swapped[i]
        yield node, f"{callee}({', '.join([*swapped, *keywords])})"
    for i in range(len(keywords)):
        rest = keywords[:i] + keywords[i + 1 :]
        yield node, f"{callee}({', '.join([*arguments, *rest])})"
    if isinstance(name, ast.Attribute) and not keywords and len(arguments) <= 1:
        yield node, where.of(name.value)  # x.f(y) -> x
