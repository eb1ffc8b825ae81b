"""Nodes as Python expressions, in the flattened layout."""

from porter.analyze.axes import AxisError, feature_layout, leaves
from porter.analyze.graph import Axis, Factor, Node, axis_size
from porter.analyze.symbols import constant, same
from porter.analyze.values import is_scalar
from porter.gap import Gap, Refused

_INFIX = {
    "add": ("+", 4),
    "sub": ("-", 4),
    "mul": ("*", 5),
    "truediv": ("/", 5),
    "floordiv": ("//", 5),
    "mod": ("%", 5),
    "pow": ("**", 7),
    "lt": ("<", 3),
    "le": ("<=", 3),
    "gt": (">", 3),
    "ge": (">=", 3),
    "eq": ("==", 3),
    "ne": ("!=", 3),
    "matmul": ("@", 5),
    "bitand": ("&", 3),
    "bitor": ("|", 2),
}
_FUNCTIONAL = {
    "silu",
    "relu",
    "softplus",
    "logsigmoid",
    "relu6",
    "mish",
    "elu",
    "hardtanh",
    "celu",
    "selu",
    "hardswish",
    "hardsigmoid",
    "softsign",
}
_ATOM = 9


class Printer:
    """Prints one method's nodes. operand(node) gives the text of a node that has a name or
    is printed in place; number(sym) that of a scalar."""

    def __init__(self, operand, number, imports, dtype=None):
        self.operand, self.number, self.imports = operand, number, imports
        self.dtype = dtype or (lambda node: "torch.get_default_dtype()")

    def gap(self, node: Node, what: str) -> Refused:
        return Refused([Gap(node.span.file, node.span.line, what)])

    def layout(self, node: Node) -> tuple[bool, list[Axis]]:
        try:
            return feature_layout(node.axes)
        except AxisError as error:
            raise self.gap(node, f"`{node.op}` can't be flattened: {error}") from error

    def rank(self, node: Node) -> int:
        tokens, features = self.layout(node)
        return len(features) + tokens

    def dim(self, node: Node, dim: int) -> int:
        """A negative axis number of the source's layout in the flattened one."""
        axes = node.axes
        at = dim % len(axes)
        behind = [a for a in axes[at + 1 :] if not any(f.role for f in a)]
        return -1 - len(behind)

    def render(self, node: Node) -> tuple[str, int]:
        """(text, binding strength) of the operation on its operands' texts."""
        op = node.op
        if op in _INFIX:
            return self._infix(node)
        if op == "neg":
            return f"-{self._arg(node, 0, 6)}", 6
        method = getattr(self, f"_{op}", None)
        if method is not None:
            return method(node), _ATOM
        if op in _FUNCTIONAL:
            self.imports.add("F")
            return f"F.{op}({self._arg(node, 0)})", _ATOM
        if op in _TORCH_UNARY:
            return f"torch.{op}({self._arg(node, 0)})", _ATOM
        if op in ("maximum", "minimum", "where"):
            args = ", ".join(self._arg(node, i) for i in range(len(node.args)))
            return f"torch.{op}({args})", _ATOM
        raise self.gap(node, f"`{op}` can't be written into a port")

    def text(self, node: Node, level: int = 0) -> str:
        body, own = self.render(node)
        return f"({body})" if own < level else body

    def _arg(self, node: Node, i: int, level: int = 0) -> str:
        """Operand i, with the axes that broadcasting in the flattened layout needs."""
        value = node.args[i]
        if isinstance(value, Node):
            return self._aligned(node, value, level)
        if is_scalar(value):
            return self.number(value, level)
        raise self.gap(node, f"an operand of `{node.op}` can't be written into a port")

    def _aligned(self, node: Node, value: Node, level: int) -> str:
        tokens, features = self.layout(value)
        missing = self.rank(node) - self.rank(value)
        if not tokens or missing <= 0 or not features:
            if tokens and missing > 0:
                fill = ", None" * missing
                return f"{self.operand(value, _ATOM)}[:{fill}]"
            return self.operand(value, level)
        fill = ", None" * missing
        return f"{self.operand(value, _ATOM)}[:{fill}]"

    def _infix(self, node: Node) -> tuple[str, int]:
        sign, own = _INFIX[node.op]
        left = self._arg(node, 0, own + (node.op == "pow"))
        right = self._arg(node, 1, own + (node.op != "pow"))
        return f"{left} {sign} {right}", own

    # -- operations with a form of their own

    def _cast(self, node: Node) -> str:
        x = self._arg(node, 0, _ATOM)
        if node.dtype == "float32":
            return f"{x}.float()"
        if node.dtype == "int64":
            return f"{x}.long()"
        if node.dtype is None:
            return f"{x}.to({self.dtype(node)})"
        return f"{x}.to(torch.{node.dtype})"

    def _gelu(self, node: Node) -> str:
        self.imports.add("F")
        kind = node.attrs["approximate"]
        extra = f', approximate="{kind}"' if kind != "none" else ""
        return f"F.gelu({self._arg(node, 0)}{extra})"

    def _leaky_relu(self, node: Node) -> str:
        self.imports.add("F")
        return f"F.leaky_relu({self._arg(node, 0)}, {self._arg(node, 1)})"

    def _clamp(self, node: Node) -> str:
        parts = [self._arg(node, 0)]
        for name, value in zip(("min", "max"), node.args[1:], strict=True):
            if value is not None:
                parts.append(f"{name}={self.number(value, 0)}")
        return f"torch.clamp({', '.join(parts)})"

    def _masked_fill(self, node: Node) -> str:
        x, mask, value = (self._arg(node, i) for i in range(3))
        return f"torch.masked_fill({x}, {mask}, {value})"

    def _reduce(self, node: Node) -> str:
        x = node.args[0]
        keep = ", keepdim=True" if node.attrs["keepdim"] else ""
        spread = node.attrs.get("unbiased")
        extra = f", correction={int(spread)}" if spread is not None else ""
        dim = self.dim(x, node.attrs["dim"])
        order = node.attrs.get("p")
        if order is not None:
            extra = f", p={self.number(order, 0)}"
        where = f"dim={dim}" if order is not None else f"{dim}"
        return f"{self.operand(x, _ATOM)}.{node.attrs['fn']}({where}{extra}{keep})"

    def _layer_norm(self, node: Node) -> str:
        return self._functional_norm(node, ("weight", "bias"))

    def _rms_norm(self, node: Node) -> str:
        return self._functional_norm(node, ("weight",))

    def _functional_norm(self, node: Node, names: tuple[str, ...]) -> str:
        self.imports.add("F")
        parts = [self._arg(node, 0), f"({self.number(axis_size(node.axes[-1]), 0)},)"]
        for name, value in zip(names, node.args[1:], strict=True):
            if value is not None:
                parts.append(f"{name}={self.operand(value, 0)}")
        if node.attrs["eps"] is not None:
            parts.append(f"eps={self.number(node.attrs['eps'], 0)}")
        return f"F.{node.op}({', '.join(parts)})"

    def _softmax(self, node: Node) -> str:
        x = node.args[0]
        extra = ", dtype=torch.float32" if node.dtype == "float32" != x.dtype else ""
        dim = self.dim(x, node.attrs["dim"])
        return f"torch.softmax({self.operand(x, 0)}, {dim}{extra})"

    def _matrix(self, node: Node) -> str:
        self.imports.add("F")
        args = ", ".join(self.operand(a, 0) for a in node.args)
        return f"F.linear({args})"

    def _topk(self, node: Node) -> str:
        x, k = node.args
        dim = self.dim(x, node.attrs["dim"])
        extra = "" if node.attrs["largest"] else ", largest=False"
        return (
            f"torch.topk({self.operand(x, 0)}, {self.number(k, 0)}, dim={dim}{extra})"
        )

    def _extreme(self, node: Node) -> str:
        x = node.args[0]
        keep = ", keepdim=True" if node.attrs["keepdim"] else ""
        dim = self.dim(x, node.attrs["dim"])
        return f"torch.{node.attrs['fn']}({self.operand(x, 0)}, dim={dim}{keep})"

    def _gather(self, node: Node) -> str:
        x, index = node.args
        dim = self.dim(x, node.attrs["dim"])
        return f"{self.operand(x, _ATOM)}.gather({dim}, {self.operand(index, 0)})"

    def _scatter(self, node: Node) -> str:
        x, index, src = node.args
        value = self.operand(src, 0) if isinstance(src, Node) else self.number(src, 0)
        dim = self.dim(node, node.attrs["dim"])
        return (
            f"{self._full(node, x)}.scatter({dim}, {self.operand(index, 0)}, {value})"
        )

    def _full(self, node: Node, x: Node) -> str:
        return self.operand(x, _ATOM)

    def _one_hot(self, node: Node) -> str:
        self.imports.add("F")
        return f"F.one_hot({self.operand(node.args[0], 0)}, {self.number(node.args[1], 0)})"

    def _invert(self, node: Node) -> str:
        return f"~{self._arg(node, 0, _ATOM)}"

    def _slice(self, node: Node) -> str:
        x, low, high = node.args
        start = "" if constant(low) == 0 else self.number(low, 0)
        size = axis_size(x.axes[node.attrs["dim"]])
        stop = "" if same(high, size) else self.number(high, 0)
        step = node.attrs["step"]
        tail = "" if constant(step) == 1 else f":{self.number(step, 0)}"
        behind = -1 - self.dim(x, node.attrs["dim"])
        rest = ", :" * behind
        return f"{self.operand(x, _ATOM)}[..., {start}:{stop}{tail}{rest}]"

    def _select(self, node: Node) -> str:
        x, at = node.args
        behind = -1 - self.dim(x, node.attrs["dim"])
        return f"{self.operand(x, _ATOM)}[..., {self.number(at, 0)}{', :' * behind}]"

    def _clone(self, node: Node) -> str:
        return f"{self.operand(node.args[0], _ATOM)}.clone()"

    def _along(self, node: Node) -> str:
        x, fn = node.args[0], node.attrs["fn"]
        if fn == "clone":
            return self.operand(x, _ATOM)
        parts = [self.operand(x, 0)]
        for name, value in zip(node.attrs["names"], node.args[1:], strict=True):
            parts.append(f"{name}={self.number(value, 0)}")
        dim = self.dim(x, node.attrs["dim"])
        parts.append(f"dims=({dim},)" if fn in ("flip", "roll") else f"dim={dim}")
        if fn == "normalize":
            self.imports.add("F")
            return f"F.normalize({', '.join(parts)})"
        return f"torch.{fn}({', '.join(parts)})"

    def _cat(self, node: Node) -> str:
        rank = self.rank(node)
        parts = []
        for part in node.args[0]:
            if self.rank(part) != rank:
                raise self.gap(node, "`cat` of tensors with and without tokens")
            parts.append(self.operand(part, 0))
        return (
            f"torch.cat(({', '.join(parts)}), dim={self.dim(node, node.attrs['dim'])})"
        )

    def _rows(self, node: Node) -> str:
        return f"{self.operand(node.args[0], _ATOM)}[{self.operand(node.args[1], 0)}]"

    def _arange(self, node: Node) -> str:
        start, stop, step = (self.number(a, 0) for a in node.args)
        args = stop if start == "0" and step == "1" else f"{start}, {stop}"
        args += f", {step}" if step != "1" else ""
        dtype = ", dtype=torch.float" if node.dtype == "float32" else ""
        return f"torch.arange({args}{dtype})"

    def _fill_like(self, node: Node) -> str:
        x, value = self.operand(node.args[0], 0), constant(node.args[1])
        dtype = ""
        if node.dtype not in (None, node.args[0].dtype):
            dtype = f", dtype=torch.{node.dtype}"
        if value in (0, 1):
            return f"torch.{'ones' if value else 'zeros'}_like({x}{dtype})"
        return f"torch.full_like({x}, {self.number(node.args[1], 0)}{dtype})"

    def _fill(self, node: Node) -> str:
        value = constant(node.args[0])
        sizes = [self.number(axis_size(a), 0) for a in node.axes]
        shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        dtype = f", dtype=torch.{node.dtype}" if node.dtype is not None else ""
        if value == 1:
            return f"torch.ones({', '.join(sizes) or '()'}{dtype})"
        if value == 0:
            init = node.attrs.get("init", "zeros")
            init = "zeros" if init == "full" else init
            return f"torch.{init}({', '.join(sizes) or '()'}{dtype})"
        return f"torch.full({shape}, {self.number(node.args[0], 0)}{dtype})"

    def _index_fill(self, node: Node) -> str:
        x, at, value = node.args
        row = f"torch.tensor({self.number(at, 0)})"
        return f"{self.operand(x, _ATOM)}.index_fill(0, {row}, {self.number(value, 0)})"

    def _constant(self, node: Node) -> str:
        return f"torch.tensor({self.number(node.args[0], 0)})"

    # -- views

    def _rearrange(self, node: Node) -> str:
        base = node.args[0]
        tokens, have = self.layout(base)
        _, want = self.layout(node)
        text = self.operand(base, _ATOM)
        have_leaves = [leaf for axis in have for leaf in leaves(axis)]
        want_leaves = [leaf for axis in want for leaf in leaves(axis)]
        if have_leaves == want_leaves:
            return text + self._regroup(have, want, tokens)
        return text + self._reorder(node, have, want, have_leaves, want_leaves, tokens)

    def _regroup(self, have, want, tokens: bool) -> str:
        a = [tuple(map(id, leaves(x))) for x in have]
        b = [tuple(map(id, leaves(x))) for x in want]
        if a == b:
            return ""
        for i, group in enumerate(a):  # one axis is split, or some are merged
            if a[:i] == b[:i] and len(b) > len(a):
                extra = len(b) - len(a) + 1
                merged = tuple(x for g in b[i : i + extra] for x in g)
                if (
                    merged == group
                    and a[i + 1 :] == b[i + extra :]
                    and all(b[i : i + extra])
                ):
                    sizes = self._sizes(want[i : i + extra])
                    return f".unflatten({i - len(a)}, ({sizes}))"
        for i in range(len(b)):
            extra = len(a) - len(b) + 1
            if extra > 1 and a[:i] == b[:i] and a[i + extra :] == b[i + 1 :]:
                if all(a[i : i + extra]):
                    last = i + extra - 1 - len(a)
                    end = f", {last}" if last != -1 else ""
                    return f".flatten({i - len(a)}{end})"
        for i in range(len(b)):
            if b[i] == () and b[:i] + b[i + 1 :] == a:
                return f".unsqueeze({i - len(b)})"
        for i, group in enumerate(a):
            if group == () and len(a) > 1:
                rest = have[:i] + have[i + 1 :]
                return f".squeeze({i - len(a)})" + self._regroup(rest, want, tokens)
        lead = ["-1"] if tokens else []
        sizes = ", ".join([*lead, *(self.number(axis_size(x), 0) for x in want)])
        return f".reshape({sizes})"

    def _sizes(self, axes: list[Axis]) -> str:
        """Sizes of the parts of a split axis; that of heads, which ranks share, is left."""
        parts = ["-1", *(self.number(axis_size(a), 0) for a in axes[1:])]
        return ", ".join(parts)

    def _count(self, factor: Factor) -> str:
        return self.number(factor.size, 0)

    def _reorder(self, node, have, want, have_leaves, want_leaves, tokens: bool) -> str:
        kept = [f for f in want_leaves if not _is_copy(f, have_leaves)]
        if sorted(map(id, kept)) != sorted(map(id, have_leaves)):
            raise self.gap(node, "this view can't be written for flattened tokens")
        out = ""
        if [leaves(a) for a in have] != [(f,) for f in have_leaves]:
            out += self._regroup(have, [(f,) for f in have_leaves], tokens)
        if [id(f) for f in kept] != [id(f) for f in have_leaves]:
            order = [have_leaves.index(f) + tokens for f in kept]
            lead = ["0"] if tokens else []
            out += f".permute({', '.join([*lead, *map(str, order)])})"
        if len(kept) != len(want_leaves):
            lead = [":"] if tokens else []
            slots = [":" if f in kept else "None" for f in want_leaves]
            out += f"[{', '.join([*lead, *slots])}]"
            first = ["-1"] if tokens else []
            local = node.attrs.get("copies")
            count = (lambda f: f"self.{local}") if local else self._count
            sizes = ["-1" if f in kept else count(f) for f in want_leaves]
            out += f".expand({', '.join([*first, *sizes])})"
        if [leaves(a) for a in want] != [(f,) for f in want_leaves]:
            out += self._regroup([(f,) for f in want_leaves], want, tokens)
        return out


_TORCH_UNARY = {
    "cos",
    "sin",
    "tanh",
    "sigmoid",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "abs",
    "erf",
    "square",
    "reciprocal",
    "log1p",
    "expm1",
    "floor",
    "ceil",
    "round",
    "sign",
    "log2",
    "atan",
    "trunc",
    "frac",
    "exp2",
    "log10",
    "sinh",
    "cosh",
    "tan",
    "erfc",
    "sinc",
}


def _is_copy(factor: Factor, have: list[Factor]) -> bool:
    return factor.repeats and factor not in have
