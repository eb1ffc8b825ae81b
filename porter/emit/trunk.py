"""The model class with the loop over the layers, cut for pipeline stages."""

from porter.analyze import symbols
from porter.analyze.graph import Frame, Loop, Node, dependencies, walk
from porter.analyze.symbols import Sym, contains, negate, unwrap
from porter.analyze.values import Choice, Module
from porter.emit.classes import ClassSet, Generated, parameter_name
from porter.emit.constructor import Constructor
from porter.emit.frames import FrameGraph
from porter.emit.lines import Line, indented
from porter.emit.method import Body
from porter.emit.names import hinted
from porter.emit.scope import ClassScope
from porter.emit.stages import empty_tensors, guard, one_width, sent_on, token_sizes
from porter.gap import Gap, Refused
from porter.profiles.profile import Argument
from porter.transforms.matching import is_op

_FORWARD = """\
    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
{further}        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:"""


class TrunkScope(ClassScope):
    """The scope of the class that holds the layers: inside the loop one is `layer`."""

    def __init__(self, inst, graph, imports, loop: Loop):
        super().__init__(inst, graph, imports)
        self.loop = loop
        self.uses_index = False
        self.guarded: dict[
            int, str
        ] = {}  # parts of what only some configs have: the test

    def render(self, node: Node, body) -> tuple[str, int] | None:
        test = self.guarded.get(node.id)
        if test is None:
            return super().render(node, body)
        text, _ = body.printer().render(node)
        return f"{text} if {test} else None", 0

    def _name(self, sym: Sym) -> str | None:
        inner = unwrap(sym)
        if isinstance(inner, Sym) and inner.op == "layer":
            self.uses_index = True
            return "layer_idx"
        if contains(inner, "layer"):
            return None
        return super()._name(sym)

    def module(self, inst: Module) -> str:
        if inst in _elements(self.loop.modules):
            return "layer"
        return super().module(inst)

    def passed(self, arguments: tuple[Argument, ...]) -> list[str]:
        given = [a.given for a in arguments]
        self.uses_index |= any("layer_idx" in g for g in given)
        return given


class Trunk:
    """Facts about the loop and the values that cross it."""

    def __init__(self, graph: FrameGraph):
        self.graph = graph
        loops = []
        for node in graph.order:
            if node.op == "loop_exit" and node.attrs["loop"] not in loops:
                loops.append(node.attrs["loop"])
        if len(loops) != 1:
            top = graph.facts.logits
            raise Refused(
                [
                    Gap(
                        top.span.file,
                        top.span.line,
                        f"{len(loops)} loops over layers in the forward",
                        "a decoder has one list of layers that is run through",
                    )
                ]
            )
        self.loop: Loop = loops[0]
        self.frame: Frame = self.loop.frame
        self.inst: Module = self.frame.inst
        rows = [tuple(n.final for n in row) for row in self.loop.carried]
        live = {n.id for n in graph.order}
        self.carried = [row for row in rows if row[3].id in live]
        self.embedding = self._embedding()
        self.inside = self._loop_nodes()
        self.invariant = self._invariants()

    def _embedding(self) -> Node:
        found = [
            n
            for n in self.graph.order
            if n.op == "embedding" and is_op(n.args[0], "input_ids")
        ]
        if len(found) > 1:  # the one that the layers' input is made of
            carried = {n.id for row in self.carried for n in walk([row[1]])}
            found = [n for n in found if n.id in carried]
        if len(found) != 1 or found[0].frame is not self.frame:
            span = self.frame.span
            raise Refused(
                [
                    Gap(
                        span.file,
                        span.line,
                        "the tokens' embedding isn't in the class that runs the layers",
                    )
                ]
            )
        node = found[0]
        cls = node.attrs["module"].cls
        if cls is None:
            return node
        first, last = cls.node.lineno, cls.node.end_lineno
        while True:
            readers = self.graph.readers.get(node.id, [])
            inside = [
                r
                for r in readers
                if r.span.file == cls.file.shown and first <= r.span.line <= last
            ]
            if len(inside) != 1 or len(readers) != 1:
                return node
            node = inside[0]

    def _loop_nodes(self) -> set[int]:
        """Nodes that the body computes: they depend on what a layer makes or is given."""
        stop = {row[0].id for row in self.carried}
        inside: set[int] = set()
        for node in walk([row[2] for row in self.carried]):
            if (
                node.loop is self.loop
                or node.id in stop
                or any(d.id in inside or d.id in stop for d in dependencies(node))
            ):
                inside.add(node.id)
        return inside

    def _invariants(self) -> list[Node]:
        """Values from before the loop that the layers, or what follows them, read."""
        exits = {row[3].id for row in self.carried}
        found: list[Node] = []
        for node in self.graph.order:
            later = node.id in self.inside or self._after(node, exits)
            if not later or node.op == "loop_exit":
                continue
            for dep in dependencies(node):
                if dep.id in self.inside or self._after(dep, exits) or dep in found:
                    continue
                if self.graph.inside(dep, self.frame) and _varies(dep):
                    found.append(dep)
        return found

    def _after(self, node: Node, exits: set[int]) -> bool:
        return node.id in exits or any(n.id in exits for n in walk([node]))


def _varies(node: Node) -> bool:
    """Whether a value depends on the tokens or positions; constants are made again."""
    return any(n.op in ("input_ids", "positions") for n in walk([node]))


def depends_on_tokens(node: Node) -> bool:
    return any(n.op == "input_ids" for n in walk([node]))


class TrunkWriter:
    def __init__(self, classes: ClassSet, trunk: Trunk, tied: bool, compiled: bool):
        self.classes, self.trunk, self.tied, self.compiled = (
            classes,
            trunk,
            tied,
            compiled,
        )
        self.graph = classes.graph
        self.scope = TrunkScope(trunk.inst, self.graph, classes.imports, trunk.loop)
        self.first: set[str] = set()
        self.last: set[str] = set()
        self.guards: dict[str, str] = {}  # of what crosses the stages: when it is there
        self.lines: list[Line] = []

    def write(self) -> Generated:
        embed = self._embed()
        forward = self._forward()
        empty = self._empty_tensors()
        init = self._constructor()
        name = self.trunk.inst.kind
        made = Generated(name, {"vllm_config"}, {})
        span = [self.trunk.frame.span]
        if self.compiled:
            made.lines.append(Line("@support_torch_compile", span))
        made.lines.append(Line(f"class {name}(nn.Module):", span))
        made.lines += init + [Line("")] + embed + [Line("")] + empty + forward
        return made

    def _empty_tensors(self) -> list[Line]:
        """The method that makes what a later stage receives, where vLLM's can't."""
        staged = [n for n in self.trunk.invariant if depends_on_tokens(n)]
        values = [*(row[3] for row in self.trunk.carried), *staged]
        names = self.keys.values()
        self.crossing = dict(zip(names, map(token_sizes, values), strict=True))
        if one_width(list(self.crossing.values())) and not self.guards:
            return []
        text = empty_tensors(self.crossing, self.guards, self.scope.number)
        return [Line(text, [self.trunk.frame.span]), Line("")]

    def _reached(self) -> set[str]:
        """The children that were called since this was last asked."""
        reached, self.scope.reached = self.scope.reached, set()
        return reached

    # -- forward

    def _body(self) -> Body:
        body = Body(self.graph, self.trunk.frame, self.scope)
        body.reserved = {"self", "layer", "intermediate_tensors"}
        body.reserved |= {a.name for a in self.graph.profile.model_arguments}
        for node in self.graph.order:
            if node.op in ("positions", "input_ids"):
                body.bind(node, node.op)
        return body

    def _embed(self) -> list[Line]:
        body = self._body()
        body.plan([self.trunk.embedding])
        text = body.ensure(self.trunk.embedding)
        span = self.trunk.embedding.span
        if body.lines and body.lines[-1].text.startswith(f"{text} = "):
            lines = body.finished({text: self.trunk.embedding}, span)
            lines[-1].text = lines[-1].text.replace(f"{text} = ", "return ", 1)
        else:
            body.line(f"return {text}")
            lines = body.finished({}, span)
        self.first |= self._reached()
        name = self.graph.profile.embed
        head = f"    def {name}(self, input_ids: torch.Tensor) -> torch.Tensor:"
        return [Line(head, [span]), *indented(lines, 2)]

    def _carried_names(self) -> list[str]:
        names: list[str] = []
        for entry, _, _, exit_ in self.trunk.carried:
            options = [
                *hinted(entry, self.trunk.frame),
                *hinted(exit_, self.trunk.frame),
                "hidden_states",
            ]
            names.append(next(o for o in options if o not in names))
        return names

    def _forward(self) -> list[Line]:
        trunk = self.trunk
        names = self._carried_names()
        shared = [n for n in trunk.invariant if not depends_on_tokens(n)]
        staged = [n for n in trunk.invariant if depends_on_tokens(n)]
        further = self.graph.profile.taken(" " * 8)
        out = [Line(_FORWARD.format(further=further), [trunk.frame.span])]
        shared_lines, invariant_names = self._shared(shared, names)
        self._name_staged(staged, names, invariant_names)
        out += shared_lines
        out += self._first_stage(names, staged, invariant_names, shared)
        out += self._loop(names, invariant_names)
        self.keys = {
            **dict(zip([id(r[3]) for r in trunk.carried], names, strict=True)),
            **{n.id: invariant_names[n.id] for n in staged},
        }
        sent = sent_on(list(self.keys.values()), self.guards)
        out += indented([Line(text, [trunk.frame.span]) for text in sent], 2)
        out += self._last_stage(names, invariant_names)
        return out

    def _name_staged(self, staged: list[Node], taken: list[str], names: dict) -> None:
        used = [*taken, *names.values(), "positions", "input_ids", "inputs_embeds"]
        for node in staged:
            names[node.id] = parameter_name(node, self.trunk.frame, used)
            used.append(names[node.id])
            readers = self.graph.readers.get(node.id, [])
            cond = guard(node, self.trunk.inst, readers)
            if cond is not None:
                test = self.scope.number(cond)
                self.guards[names[node.id]] = test
                self.scope.guarded.update({r.id: test for r in readers})

    def _shared(self, shared: list[Node], taken: list[str]):
        """What depends on the positions alone is computed on every stage."""
        names: dict[int, str] = {}
        if not shared:
            return [], names
        body = self._body()
        body.reserved |= set(taken)
        body.plan(shared)
        for node in shared:
            text = body.ensure(node)
            if not text.isidentifier():
                text = body.take_name(node)
                self._compute(body, node, text)
            names[node.id] = text
        lines = body.finished({names[n.id]: n for n in shared}, self.trunk.frame.span)
        return self.classes.comments.weave(indented(lines, 2)), names

    def _compute(self, body: Body, node: Node, name: str) -> None:
        text = body.ensure(node)
        if text != name:
            body.line(f"{name} = {text}", [node.span], writes=[(name, node)])
            body.hold(node, name)

    def _compute_staged(self, body: Body, node: Node, name: str) -> None:
        test = self.guards.get(name)
        if test is None:
            self._compute(body, node, name)
            return
        body.line(f"{name} = None", [node.span], reads=(), writes=[(name, node)])
        body.line(f"if {test}:", [node.span], reads=())
        before = (
            {k: list(v) for k, v in body.called.items()},
            dict(body.holder),
            set(body.emitted),
        )
        body.indent += 1
        self._compute(body, node, name)
        body.indent -= 1
        body.called, body.holder, body.emitted = before
        body.hold(node, name)

    def _first_stage(self, names, staged, invariant_names, shared) -> list[Line]:
        trunk, body = self.trunk, self._body()
        self._reached()
        for node in shared:
            body.bind(node, invariant_names[node.id])
        body.bind(trunk.embedding, "inputs_embeds")
        inits = [row[1] for row in trunk.carried]
        body.plan([*staged, *inits])
        for node in staged:
            self._compute_staged(body, node, invariant_names[node.id])
        for init, name in zip(inits, names, strict=True):
            self._compute(body, init, name)
        self.first |= self._reached()
        ends = {invariant_names[n.id]: n for n in [*shared, *staged]}
        ends.update(zip(names, inits, strict=True))
        first = body.finished(ends, trunk.frame.span)
        span = [trunk.frame.span]
        lines = [
            Line("if get_pp_group().is_first_rank:", span),
            Line("    if inputs_embeds is None:", span),
            Line(
                f"        inputs_embeds = self.{self.graph.profile.embed}(input_ids)",
                span,
            ),
            *self.classes.comments.weave(indented(first, 1)),
            Line("else:", span),
            Line("    assert intermediate_tensors is not None", span),
        ]
        for name in [*names, *(invariant_names[n.id] for n in staged)]:
            given = f'intermediate_tensors["{name}"]'
            if name in self.guards:
                given += f" if {self.guards[name]} else None"
            lines.append(Line(f"    {name} = {given}", span))
        return indented(lines, 2)

    def _loop(self, names, invariant_names) -> list[Line]:
        trunk, body = self.trunk, self._body()
        for node in trunk.invariant:
            body.bind(node, invariant_names[node.id])
        for (entry, _, _, _), name in zip(trunk.carried, names, strict=True):
            body.bind(entry, name)
        results = [row[2] for row in trunk.carried]
        self._reached()
        body.plan(results)
        for result, name in zip(results, names, strict=True):
            self._compute(body, result, name)
        if self._reached():
            span = trunk.loop.span
            raise Refused(
                [
                    Gap(
                        span.file,
                        span.line,
                        "the loop over layers uses a module beside the layers",
                    )
                ]
            )
        layers = trunk.loop.modules.name
        end = "self.end_layer"
        if trunk.loop.stop is not None:
            stop = self.scope.number(trunk.loop.stop)
            end = f"min(self.end_layer, {stop})"
        start = "self.start_layer"
        if trunk.loop.start:
            start = f"max(self.start_layer, {trunk.loop.start})"
        run = f"islice(self.{layers}, {start}, {end})"
        head = f"for layer in {run}:"
        if self.scope.uses_index:
            head = f"for layer_idx, layer in enumerate({run}, start={start}):"
        ends = {invariant_names[n.id]: n for n in trunk.invariant}
        ends.update(zip(names, results, strict=True))  # as the next layer reads them
        lines = [
            Line(head, [trunk.loop.span]),
            *self.classes.comments.weave(
                indented(body.finished(ends, trunk.loop.span), 1)
            ),
        ]
        return indented(lines, 2)

    def _last_stage(self, names, invariant_names) -> list[Line]:
        trunk, body = self.trunk, self._body()
        for node in trunk.invariant:
            body.bind(node, invariant_names[node.id])
        for (_, _, _, exit_), name in zip(trunk.carried, names, strict=True):
            body.bind(exit_, name)
        outputs = self.graph.outputs(trunk.frame)
        if len(outputs) != 1:
            span = trunk.frame.span
            raise Refused(
                [Gap(span.file, span.line, "the model gives its head several values")]
            )
        self._reached()
        body.plan(outputs)
        body.line(f"return {body.ensure(outputs[0])}")
        self.last = self._reached()
        lines = body.finished({}, trunk.frame.span)
        return self.classes.comments.weave(indented(lines, 2))

    # -- constructor

    def _constructor(self) -> list[Line]:
        constructor = _TrunkConstructor(self)
        body = constructor.write()
        trunk = self.trunk
        if one_width(list(self.crossing.values())) and not self.guards:
            listed = ", ".join(f'"{k}"' for k in self.crossing)
            width = next(iter(self.crossing.values()))[0]
            body.append(
                "self.make_empty_intermediate_tensors = "
                f"make_empty_intermediate_tensors_factory([{listed}], "
                f"{constructor.number(width)})"
            )
        constructor.wants.add("config")
        head = []
        for name, text in (
            ("config", "vllm_config.model_config.hf_config"),
            ("cache_config", "vllm_config.cache_config"),
            ("quant_config", "vllm_config.quant_config"),
        ):
            if name in constructor.wants:
                head.append(f"{name} = {text}")
        span = [trunk.frame.span]
        lines = [
            Line(
                '    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") '
                "-> None:",
                span,
            ),
            Line("        super().__init__()", span),
        ]
        for text in [*head, *body]:
            lines.append(Line("        " + text.replace("\n", "\n        "), span))
        return lines


class _TrunkConstructor(Constructor):
    """Children of the first or last pipeline stage are missing on the others."""

    def __init__(self, writer: TrunkWriter):
        super().__init__(writer.scope, writer.classes)
        self.writer = writer

    def write(self) -> list[str]:
        modules = self.writer.trunk.loop.modules
        self.scope.children.setdefault(modules.name, modules)
        return super().write()

    def _order(self, item) -> tuple:
        """First stage, layers, last stage."""
        name = item[0]
        stage = 0 if name in self.writer.first else 2
        if item[1] is self.writer.trunk.loop.modules:
            stage = 1
        return (stage, list(self.scope.children).index(name))

    def _child(self, name: str, child: Module) -> None:
        if child is self.writer.trunk.loop.modules:
            self._layers(name, child)
            return
        first, last = name in self.writer.first, name in self.writer.last
        rank = None
        if first and not last:
            rank = "get_pp_group().is_first_rank"
            vocab = self.writer.trunk.embedding
            while vocab.op != "embedding":
                vocab = next(
                    a
                    for a in vocab.inputs()
                    if a.frame is not None and depends_on_tokens(a)
                )
            if self.writer.tied and _holds(child, vocab.attrs["module"]):
                self.wants.add("config")
                rank += (
                    " or (config.tie_word_embeddings and get_pp_group().is_last_rank)"
                )
        elif last and not first:
            rank = "get_pp_group().is_last_rank"
        made = self.module(name, child)
        held = self.inst.attrs.get(name)
        if isinstance(held, Choice) and child in (held.then, held.other):
            cond = held.cond if held.then is child else negate(held.cond)
            inner = made if rank is None else f"{made} if {rank} else PPMissingLayer()"
            self.lines += [
                f"if {self.number(cond)}:",
                f"    self.{name} = {inner}",
                "else:",
                f"    self.{name} = None",
            ]
        elif rank is not None:
            self.lines += [
                f"if {rank}:",
                f"    self.{name} = {made}",
                "else:",
                f"    self.{name} = PPMissingLayer()",
            ]
        else:
            self.lines.append(f"self.{name} = {made}")

    def _layers(self, name: str, child: Module) -> None:
        made = self._by_layer(name, child)
        made = made.replace(f"prefix={self.prefix(name)}", "prefix=prefix")
        self.lines.append(
            f"self.start_layer, self.end_layer, self.{name} = make_layers("
            f"{self.number(child.count)}, lambda prefix: {made}, "
            f"prefix={self.prefix(name)})"
        )

    def _by_layer(self, name: str, modules: Module) -> str:
        """The layer, or one of two by its index; none in the place of one that the model
        never runs, whose weights the loader then leaves out."""
        if modules.either is None:
            assert modules.element is not None
            return self._class_call(name, modules.element)
        sides = [
            self._class_call(name, side)
            if any(f.inst is side for f in self.classes.graph.frames)
            else "PPMissingLayer()"
            for side in _elements(modules)
        ]
        test = symbols.text(modules.either.cond, self._at_prefix)
        return f"{sides[0]} if {test} else {sides[1]}"

    def _at_prefix(self, sym: Sym) -> str | None:
        inner = unwrap(sym)
        if isinstance(inner, Sym) and inner.op == "layer":
            self.imports.add("extract_layer_index")
            return "extract_layer_index(prefix)"
        if contains(inner, "layer"):
            return None
        return self._name(sym)


def _elements(modules: Module) -> list[Module]:
    """The module of every layer, or the two of which each layer has one."""
    if modules.either is not None:
        return [modules.either.then, modules.either.other]
    return [modules.element] if modules.element is not None else []


def _holds(module: Module, inner: Module) -> bool:
    current: Module | None = inner
    while current is not None and current is not module:
        current = current.owner
    return current is module
