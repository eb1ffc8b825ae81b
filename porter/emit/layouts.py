"""Weights that a checkpoint stores in another order than the port's layers.

Two things are undone while loading: weights stored as [in, out], and projections whose
queries, keys and values lie mixed in one weight, such as head by head. Each rule is a test
on the tensor's name and the code that rearranges the tensor.
"""

from dataclasses import dataclass
from typing import Any

from porter.analyze.model import Facts
from porter.analyze.symbols import Sym, constant, same, simplify, text
from porter.analyze.values import Module
from porter.gap import Gap, Refused
from porter.transforms.packing import Packing

_METHOD = '''\
    def _rearrange(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterable[tuple[str, torch.Tensor]]:
        """{doc}"""
        for name, weight in weights:
{rules}
            yield name, weight'''


@dataclass(frozen=True)
class Rule:
    """names: parts of the tensors' names; test: on `name`; code: statements that give
    `weight` anew."""

    names: tuple[str, ...]
    test: str
    code: str
    doc: str


def rules(facts: Facts, children: list[tuple[str, Module]]) -> list[Rule]:
    """The rules for the layers of a port, given with the names that they have there."""
    modules = {id(m): m for _, m in children}
    parts = [p for m in modules.values() for p in m.attrs.get("parts", ())]
    stored = [m for m in [*modules.values(), *parts] if "parts" not in m.attrs]
    turned = [m for m in stored if m.transposed]
    out = []
    if turned:
        names = [f"{_suffix(facts, m, turned)}.weight" for m in turned]
        test = f"name.endswith({_tuple(names)})"
        doc = "Stored as [in, out]; here [out, in]."
        out.append(Rule(tuple(names), test, "weight = weight.t()", doc))
    packed = [m for m in modules.values() if m.leaf and "packed" in m.attrs]
    by_code: dict[tuple[str, str], list[Module]] = {}
    for module in packed:
        unpacked = _unpack(module.attrs["packed"])
        if unpacked is not None:
            by_code.setdefault(unpacked, []).append(module)
    for (code, doc), group in by_code.items():
        names = list(dict.fromkeys(f"{_suffix(facts, m, group)}." for m in group))
        test = " or ".join(f'"{n}" in name' for n in names)
        out.append(Rule(tuple(names), test, code, doc))
    return out


def method(rules: list[Rule]) -> str:
    """The generator that applies the rules, as text."""
    body = []
    for rule in rules:
        lines = rule.code.split("\n")
        body.append(f"            if {rule.test}:")
        body += [f"                {line}" for line in lines]
    return _METHOD.format(doc=" ".join(r.doc for r in rules), rules="\n".join(body))


def _tuple(names: list[str]) -> str:
    shown = ", ".join(f'"{n}"' for n in dict.fromkeys(names))
    return f"({shown})" if "," in shown else shown


def _suffix(facts: Facts, module: Module, group: list[Module]) -> str:
    """The end of a module's path by which no module outside the group goes too."""
    others = [
        m.path
        for m in facts.interpreter.modules
        if m not in group and _root(m) is facts.root
    ]
    path = module.path
    for length in range(1, len(path) + 1):
        tail = path[-length:]
        if "*" in tail:
            break
        if not any(o[-length:] == tail for o in others):
            return "." + ".".join(tail)
    raise Refused(
        [
            Gap(
                module.span.file,
                module.span.line,
                f"`{module.name}` is stored in another order than a layer of its name",
            )
        ]
    )


def _root(module: Module) -> Module:
    while module.owner is not None:
        module = module.owner
    return module


def _unpack(packing: Packing) -> tuple[str, str] | None:
    """(code, doc) that brings packed rows to all q, all k, all v; None if they are so."""
    if packing.axis == 0:
        return None if packing.order == (0, 1, 2) else _reordered(packing)
    count = len(packing.sizes)
    sizes = [_number(s) for s in packing.sizes[:-1]]
    whole = ", ".join([*sizes, "-1"])
    head_by_head = packing.axis == 1 and packing.order == (0, 1, 2) and count == 3
    if head_by_head and packing.equal and same(packing.sizes[1], 3):
        code = (
            f"heads = weight.unflatten(0, ({whole}))\n"
            "weight = heads.transpose(0, 1).flatten(0, 2)"
        )
        return code, (
            "Stored head by head as query, key, value; here all queries come first."
        )
    names = ["qkv"[i] for i in packing.order]
    code = (
        f"rows = weight.unflatten(0, ({whole}))\n"
        f"{', '.join(names)} = rows.{_split(packing)}\n"
        f"weight = torch.cat([part.flatten(0, {count - 1}) for part in (q, k, v)])"
    )
    return code, (
        "Stored group by group as queries, keys, values; here all queries come first."
    )


def _split(packing: Packing) -> str:
    if all(same(s, packing.parts[0]) for s in packing.parts):
        return f"chunk(3, dim={packing.axis})"
    parts = ", ".join(_number(s) for s in packing.parts)
    return f"split([{parts}], dim={packing.axis})"


def _reordered(packing: Packing) -> tuple[str, str]:
    names = ["qkv"[i] for i in packing.order]
    code = (
        f"{', '.join(names)} = weight.{_split(packing)}\nweight = torch.cat((q, k, v))"
    )
    return code, f"Stored as {', '.join(names)}; here q, k, v."


def _number(value: Any) -> str:
    if constant(value) is not None:
        return repr(constant(value))
    return text(simplify(value), _on_self)


def _on_self(sym: Sym) -> str | None:
    """Config fields as methods reach them."""
    if sym.op == "field":
        return f"self.{'.'.join((*sym.args[0], sym.args[1]))}"
    if sym.op == "or_default":
        path = ".".join(sym.args[0])
        return f'getattr(self.{path}, "{sym.args[1]}", {text(sym.args[2], _on_self)})'
    return None
