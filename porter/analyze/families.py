"""What a source makes once for each different item of a config's list.

`for t in set(config.layer_types)` runs once here, on a symbol that stands for every item:
what it stores under that symbol, in a dictionary, under a name built from it, or appended
to a ModuleList, is a family. Reading it by an item, `tables[config.layer_types[i]]`, gives
the value with the item in the place of the symbol. A key that is in no list fails in the
source as well.

Refuses what depends on how many different items there are, or on their order.
"""

import ast
import itertools
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node
from porter.analyze.part import Part
from porter.analyze.specialised import Specialiser, mentions
from porter.analyze.symbols import Sym, compare, is_symbolic, key, unwrap
from porter.analyze.values import MISSING, Choice, Module, is_scalar

_numbers = itertools.count(1)


class SymSet:
    """The different items of a list of the config's; `each` stands for one of them.

    cond: what is true of the items that were taken, or None for all of them.
    """

    def __init__(self, of: Sym, each: Sym | None = None):
        self.of = of
        self.each = each or Sym("each", (unwrap(of), f"#{next(_numbers)}"))
        self.cond: Any = None


@dataclass(frozen=True)
class EachKey:
    """The key of a dictionary's family: every item that `each` stands for."""

    each: Sym = field(compare=False)
    key: Any = None

    @classmethod
    def of(cls, each: Sym) -> "EachKey":
        return cls(each, each.key)


class FamilyList:
    """The items of a ModuleList that was filled in a loop over a SymSet."""

    def __init__(self, items: SymSet, element):
        self.items, self.element = items, element


class FamilyItems:
    """`.items()` of a dictionary that has a family and nothing else."""

    def __init__(self, each: Sym, value):
        self.items = SymSet(each.args[0], each)
        self.value = value


@dataclass
class _Running:
    """A loop over a SymSet that is being run. outer: containers made before it."""

    items: SymSet
    body: list[ast.stmt]
    outer: set[int]


class Families(Part):
    """The part of the interpreter that makes and reads families."""

    def symbolic_set(self, value) -> SymSet | None:
        """set(x), sorted(set(x)), ... of a list whose items the config has."""
        if isinstance(value, SymSet):
            return value
        inner = unwrap(value)
        if isinstance(inner, Sym) and inner.op in ("field", "or_default"):
            return SymSet(inner)
        return None

    def each_of(self, iterable) -> SymSet | None:
        """The set over whose items a loop runs; a list of modules may have one each."""
        if isinstance(iterable, SymSet):
            return iterable
        if isinstance(iterable, FamilyItems):
            return iterable.items
        if isinstance(iterable, Module):
            family = iterable.attrs.get("family")
            return family.items if isinstance(family, FamilyList) else None
        return None

    def each_item(self, iterable) -> Any:
        if isinstance(iterable, Module):
            return iterable.attrs["family"].element
        if isinstance(iterable, FamilyItems):
            return (iterable.items.each, iterable.value)
        return iterable.each

    def append_each(self, modules: Module, element) -> None:
        """modules.append(x) in a loop over a SymSet."""
        items = self.each_loops[-1].items
        if modules.attrs.get("items") or "family" in modules.attrs:
            raise self.gap("a list of modules that is filled in two ways")
        if isinstance(element, Module):
            element.owner, element.name = modules, "*"
        modules.attrs["family"] = FamilyList(items, element)

    # -- loops

    def loop_each(self, stmt: ast.For, iterable, env):
        before = dict(env.vars)
        items = self.each_of(iterable)
        assert items is not None
        with self.running(items, stmt.body, env):
            self.assign(stmt.target, self.each_item(iterable), env)
            if items.cond is None:
                signal = self.run_block(stmt.body, env)
            else:
                with self.assuming(items.cond, True):
                    signal = self.run_block(stmt.body, env)
        if signal is not None and getattr(signal, "kind", "") != "continue":
            raise self.gap("leaving a loop over the layer types isn't followed")
        self._forget_last(before, env)
        return None

    def running(self, items: SymSet, body: list[ast.stmt], env) -> "_Entered":
        held = [v for scope in [*self.scopes, env] for v in scope.vars.values()]
        for module in self.under_construction:
            held += [module, *module.attrs.values()]
        outer = {id(v) for v in held if isinstance(v, (dict, list, Module))}
        return _Entered(self, _Running(items, body, outer))

    def _forget_last(self, before: dict, env) -> None:
        """A local of the body keeps the value of whichever item came last."""
        from porter.analyze.values import Opaque

        for name, value in list(env.vars.items()):
            old = before.get(name, MISSING)
            if value is old or isinstance(value, (dict, list)):
                continue
            env.vars[name] = Opaque(f"`{name}` as the last layer type left it")

    def each_running(self, index) -> Sym | None:
        """The symbol that an index is, within the loop over it."""
        inner = unwrap(index)
        if isinstance(inner, Sym) and inner.op == "each":
            if any(r.items.each.key == inner.key for r in self.each_loops):
                return inner
        return None

    def forbid_in_each(self, container, value=None, appended: bool = False) -> None:
        """A change that each turn of a loop over the layer types makes again."""
        for running in self.each_loops:
            if id(container) in running.outer and (appended or _depends(value)):
                raise self.gap(
                    "what a loop over the layer types leaves depends on their order"
                )

    def forbid_attribute_in_each(self, obj: Module, value) -> None:
        """An attribute of a module that was there before the loop."""
        for running in self.each_loops:
            if id(obj) in running.outer and _depends(value):
                raise self.gap(
                    "what a loop over the layer types leaves depends on their order",
                    "build the attribute's name from the layer type",
                )

    # -- dictionaries

    def forbid_families(self, container: dict) -> None:
        if any(isinstance(k, EachKey) for k in container):
            raise self.gap("the items of a dictionary by layer type are run through")

    def family_of(self, container: dict) -> tuple[Sym, Any] | None:
        found = [(k.each, v) for k, v in container.items() if isinstance(k, EachKey)]
        if len(found) > 1:
            raise self.gap("a dictionary filled by two loops over layer types")
        return found[0] if found else None

    def family_items(self, container: dict) -> FamilyItems | None:
        """container.items(), where the container is one family."""
        family = self.family_of(container)
        return FamilyItems(*family) if family and len(container) == 1 else None

    def index_family(self, container: dict, index) -> Any:
        """container[index], where the container has a family."""
        family = self.family_of(container)
        assert family is not None
        if not is_scalar(index):
            raise self.gap("a dictionary by layer type is read at an unknown place")
        plain = {k: v for k, v in container.items() if not isinstance(k, EachKey)}
        if not is_symbolic(index) and index in plain:
            raise self.gap("a key of a dictionary that is filled by layer type as well")
        chosen = self.specialised(_present(family[1]), family[0], index)
        for name, value in plain.items():
            if is_symbolic(index):
                test = compare("eq", index, name)
                chosen = self.join(test, _present(value), chosen)
        return self.resolve(chosen)

    def specialised(self, value, each: Sym, item) -> Any:
        """value with the item in the place of the symbol."""
        if key(each) == key(item):
            return value
        identity = (each.key, key(item))
        worker = self.specialisers.get(identity)
        if worker is None:
            worker = self.specialisers[identity] = Specialiser(self, each, item)
        return worker.value(value)

    # -- attributes by a name that is built

    def set_built_attribute(self, obj: Module, name: Sym, value) -> None:
        if self._built_from(name) is None:
            raise self.gap("an attribute's name is built from a config value")
        if any(key(known) == key(name) for known, _ in obj.families):
            raise self.gap("an attribute of each layer type is set twice")
        obj.families.append((name, value))
        if isinstance(value, Node):
            value.attrs.setdefault("slot", (obj, name))

    def _built_from(self, name: Sym) -> Sym | None:
        """The one symbol in a name such as f"{layer_type}_inv_freq"."""
        found = [unwrap(p) for p in name.args if isinstance(p, Sym)]
        if len(found) == 1 and found[0].op == "each":
            return found[0]
        return None

    def built_attribute(self, obj: Module, name) -> Any:
        """The attribute of that name in a family, MISSING where there is none."""
        for known, value in reversed(obj.families):
            item = _matching(known, name)
            if item is not MISSING:
                each = self._built_from(known)
                assert each is not None
                return self.specialised(_present(value), each, item)
        return MISSING


class _Entered:
    def __init__(self, interp, running: _Running):
        self.interp, self.running = interp, running

    def __enter__(self) -> None:
        self.interp.each_loops.append(self.running)

    def __exit__(self, *error) -> None:
        self.interp.each_loops.pop()


def _depends(value) -> bool:
    if isinstance(value, Node):
        from porter.analyze.graph import walk

        return any(mentions([*n.args, *n.attrs.values()], None) for n in walk([value]))
    if isinstance(value, (tuple, list)):
        return any(_depends(v) for v in value)
    return mentions(value, None)


def _matching(known: Sym, name) -> Any:
    """What stands in `name` where `known` has its symbol."""
    at = next(i for i, p in enumerate(known.args) if isinstance(p, Sym))
    if isinstance(name, str):
        head, tail = "".join(known.args[:at]), "".join(known.args[at + 1 :])
        if name.startswith(head) and name.endswith(tail):
            inner = name[len(head) : len(name) - len(tail)]
            return inner if inner and head + inner + tail == name else MISSING
        return MISSING
    if isinstance(name, Sym) and name.op == "format":
        if len(name.args) == len(known.args):
            rest = [
                key(a) == key(b)
                for i, (a, b) in enumerate(zip(known.args, name.args, strict=True))
                if i != at
            ]
            if all(rest):
                return name.args[at]
    return MISSING


def _present(value):
    if isinstance(value, Choice):
        if value.then is MISSING:
            return value.other
        if value.other is MISSING:
            return value.then
    return value
