"""Generated classes below the model: one for each of the source's that is still needed."""

import ast
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Frame, Node, Span
from porter.analyze.symbols import Sym, key
from porter.analyze.values import Module
from porter.config_class import ConfigClass
from porter.emit.comments import Comments
from porter.emit.constructor import Constructor
from porter.emit.frames import FrameGraph
from porter.emit.imports import IMPORTED
from porter.emit.lines import Line, indented
from porter.emit.method import Body
from porter.emit.names import hinted, hinted_below
from porter.emit.scope import ClassScope
from porter.gap import Gap, Refused

_STANDARD = {
    "cache_config": "CacheConfig | None = None",
    "quant_config": "QuantizationConfig | None = None",
    "prefix": 'str = ""',
}


@dataclass
class Generated:
    """A written class. wants: the standard constructor arguments; params: its own."""

    name: str
    wants: set[str]
    params: dict[str, Any]
    arguments: set[str] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)


class ClassSet:
    """Writes each class once, children before those that hold them; one of the source's
    whose uses need different code becomes several."""

    def __init__(
        self,
        graph: FrameGraph,
        config: ConfigClass,
        max_position: Any,
        comments: Comments,
    ):
        self.graph, self.config, self.max_position = graph, config, max_position
        self.comments = comments
        self.imports: set[str] = set()
        self.made: dict[str, list[Generated]] = {}
        self.order: list[Generated] = []
        self.scopes: list[ClassScope] = []
        self.arguments: dict[str, set[str]] = {}
        self.texts: dict[Any, Generated] = {}

    def generated(self, inst: Module) -> Generated:
        frames = [f for f in self.graph.frames if f.inst is inst]
        if not frames:
            raise Refused(
                [
                    Gap(
                        inst.span.file,
                        inst.span.line,
                        f"`{inst.kind}` is built but its forward isn't used",
                    )
                ]
            )
        made, *others = [self._written(inst, frame) for frame in frames]
        if any(_body(other) != _body(made) for other in others):
            raise Refused(
                [
                    Gap(
                        inst.span.file,
                        inst.span.line,
                        f"`{inst.kind}` is called in ways that need different code",
                        "give each call a module of its own",
                    )
                ]
            )
        return self._known(inst.kind, made)

    def _known(self, kind: str, made: Generated) -> Generated:
        """The class of the same body that there is, else this one, under a free name."""
        variants = self.made.setdefault(kind, [])
        for known in variants:
            if _body(known) == _body(made):
                return known
        variants.append(made)
        self.order.append(made)
        taken = {c.kind for c in self.graph.facts.interpreter.modules}
        taken |= {other.name for other in self.order if other is not made}
        number = len(variants)
        while number > 1 and f"{kind}{number}" in taken:
            number += 1
        if number > 1:
            head, old = made.lines[0], made.name
            made.name = f"{kind}{number}"
            head.text = head.text.replace(f"class {old}(", f"class {made.name}(", 1)
        return made

    def _class_name(self, kind: str) -> str:
        """The source's name; behind the model's where vLLM has a class of that name."""
        if kind not in IMPORTED:
            return kind
        model = self.graph.facts.root.kind
        for suffix in ("ForCausalLM", "LMHeadModel"):
            model = model.removesuffix(suffix)
        return f"{model}{kind}"

    def _written(self, inst: Module, frame: Frame) -> Generated:
        """The class as this use of it needs it. Where uses differ in sizes that their
        constructors work out, those are arguments of the constructor."""
        if inst.kind not in self.arguments:
            self.arguments[inst.kind] = set()
            uses = [f for f in self.graph.frames if f.inst.kind == inst.kind]
            bodies = [_body(self._write(f.inst, f)) for f in uses]
            if any(b != bodies[0] for b in bodies):
                self.arguments[inst.kind] = _varying([f.inst for f in uses])
        return self._write(inst, frame)

    def _write(self, inst: Module, frame: Frame) -> Generated:
        key = id(frame), frozenset(self.arguments[inst.kind])
        if key not in self.texts:
            self.texts[key] = self._write_anew(inst, frame)
        return self.texts[key]

    def _write_anew(self, inst: Module, frame: Frame) -> Generated:
        scope = ClassScope(inst, self.graph, self.imports)
        forward = write_forward(self.graph, frame, scope, self.comments)
        for name, node in self.graph.read_outside.get(id(inst), {}).items():
            scope.attrs.setdefault(name, node)
        for node in self.graph.order:  # what the class above calls by its path
            lifted = node.op == "embedding" and node.args[0].op == "input_ids"
            if lifted and node.attrs["module"].owner is inst:
                scope.children[node.attrs["module"].name] = node.attrs["module"]
        constructor = Constructor(scope, self, self.arguments[inst.kind])
        init = constructor.write()
        self.scopes.append(scope)
        name = self._class_name(inst.kind)
        made = Generated(name, constructor.wants, constructor.params)
        made.arguments = set(constructor.arguments) & set(made.params)
        made.lines = [Line(f"class {name}(nn.Module):", [_class_span(inst)])]
        made.lines += constructor_lines(inst, made, init)
        made.lines.append(Line(""))
        made.lines += forward
        return made


def _varying(modules: list[Module]) -> set[str]:
    """Names of the attributes whose values the uses of a class differ in."""
    values: dict[str, set] = {}
    for module in modules:
        for name, value in module.attrs.items():
            if isinstance(value, Sym):
                values.setdefault(name, set()).add(key(value))
    return {name for name, found in values.items() if len(found) > 1}


def write_forward(
    graph: FrameGraph, frame: Frame, scope: ClassScope, comments: Comments
) -> list[Line]:
    body = Body(graph, frame, scope)
    free = graph.free(frame)
    body.reserved |= {a.name for a in graph.layer_arguments(frame)}
    parameters: list[str] = []
    for node in free:
        name = parameter_name(node, frame, [*parameters, *body.reserved])
        body.bind(node, name)
        parameters.append(name)
    outputs = graph.outputs(frame)
    body.plan(outputs)
    for out in outputs:  # all of them first: a later one may take an earlier one's name
        body.prepare(out)
    body.reads = []
    results = [body.operand(out) for out in outputs]
    last = body.spans
    body.line(f"return {', '.join(results)}", last)
    passed = graph.layer_arguments(frame)
    body_arguments = [
        *(
            f"{p}: torch.Tensor{' | None' if _may_be_absent(node) else ''}"
            for p, node in zip(parameters, free, strict=True)
        ),
        *(f"{a.name}: {a.annotation}" for a in passed),
    ]
    signature = ", ".join(["self", *body_arguments])
    kind = (
        "torch.Tensor"
        if len(outputs) == 1
        else (f"tuple[{', '.join(['torch.Tensor'] * len(outputs))}]")
    )
    lines = [Line(f"    def forward({signature}) -> {kind}:", [frame.span])]
    return lines + comments.weave(indented(body.finished({}, frame.span), 2))


def _may_be_absent(node: Node) -> bool:
    """Whether the first layer is given None for it."""
    if node.op != "loop_entry":
        return False
    carried = node.attrs["loop"].carried
    return any(row[0].final is node and row[1].final.op == "absent" for row in carried)


def parameter_name(node, frame: Frame, taken: list[str]) -> str:
    if node.op in ("positions", "input_ids"):
        return node.op
    options = hinted(node, frame) or hinted_below(node, frame)
    for name in [*options, "hidden_states", "x"]:
        if name not in taken:
            return name
    return f"x_{len(taken)}"


def constructor_lines(inst: Module, made: Generated, init: list[str]) -> list[Line]:
    args = ["self"]
    if "config" in made.wants:
        args.append("config")
    source = parameter_annotations(inst)
    plain = [
        p
        for p in made.params
        if source.get(p, ("", None))[1] is None or p in made.arguments
    ]
    for p in [*plain, *(p for p in made.params if p not in plain)]:
        annotation, default = source.get(p, ("", None))
        if p in made.arguments:
            annotation, default = annotation.removesuffix(" | None"), None
        text = f"{p}: {annotation}" if annotation else p
        args.append(f"{text} = {default}" if default is not None else text)
    for name, annotation in _STANDARD.items():
        if name in made.wants:
            args.append(f"{name}: {annotation}")
    span = [_class_span(inst)]
    lines = [
        Line(f"    def __init__({', '.join(args)}) -> None:", span),
        Line("        super().__init__()", span),
    ]
    return lines + [
        Line("        " + text.replace("\n", "\n        "), span) for text in init
    ]


def parameter_annotations(inst: Module) -> dict[str, tuple[str, str | None]]:
    """name -> (annotation, default) of the source's constructor, where both are plain."""
    out: dict[str, tuple[str, str | None]] = {}
    if inst.cls is None:
        return out
    for stmt in inst.cls.node.body:
        if isinstance(stmt, ast.FunctionDef) and stmt.name == "__init__":
            args = stmt.args.args
            padding: list[Any] = [None] * (len(args) - len(stmt.args.defaults))
            for arg, default in zip(args, [*padding, *stmt.args.defaults], strict=True):
                kind = ast.unparse(arg.annotation) if arg.annotation else ""
                if kind not in (
                    "int",
                    "float",
                    "bool",
                    "str",
                    "int | None",
                    "float | None",
                ):
                    kind = ""
                shown = (
                    ast.unparse(default) if isinstance(default, ast.Constant) else None
                )
                out[arg.arg] = kind, shown
    return out


def _class_span(inst: Module) -> Span:
    if inst.cls is not None:
        return Span(inst.cls.file.shown, inst.cls.node.lineno)
    return inst.span


def _body(made: Generated) -> str:
    """The class as a tree whose locals are numbered in the order of their binding: what
    a call's surroundings name a value changes nothing that the class does."""
    tree = ast.parse("\n".join(line.text for line in made.lines))
    tree.body[0].name = ""  # type: ignore[attr-defined]
    for method in ast.walk(tree):
        if isinstance(method, ast.FunctionDef):
            _number_locals(method)
    return ast.dump(tree)


def _number_locals(method: ast.FunctionDef) -> None:
    bound: dict[str, str] = {}
    for node in [*method.args.args[1:], *ast.walk(method)]:
        name = None
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name is not None and name != "self":
            bound.setdefault(name, f"_{len(bound)}")
    for node in ast.walk(method):
        if isinstance(node, ast.arg) and method.name != "__init__":
            node.arg = bound.get(node.arg, node.arg)
        elif isinstance(node, ast.Name):
            node.id = bound.get(node.id, node.id)
