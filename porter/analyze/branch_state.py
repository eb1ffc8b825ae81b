"""What the sides of a branch may change: local names, attributes of modules, the config,
and what lists and dictionaries hold.

A side is followed from the state before the branch, and the states behind both are
joined. Lists and dictionaries stay the objects that they are, so that a caller or a
module that holds one too sees what has become of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from porter.analyze.symbols import config_field
from porter.analyze.values import MISSING, Choice, Function, Module

Contents = dict[int, tuple[Any, Any]]  # id -> the container, a copy of what it held


class State:
    """Everything that statements of one call can change, as it is now. env: the call's
    local names; None outside one."""

    def __init__(self, interp, env):
        self.vars = dict(env.vars) if env is not None else {}
        self.attrs = {m: dict(m.attrs) for m in interp.modules}
        self.maybe = {m: set(m.maybe) for m in interp.modules}
        self.config = dict(interp.config_values)
        outer = _containers(e.vars.values() for e in interp.scopes if e is not env)
        held = _containers(attrs.values() for attrs in self.attrs.values())
        inside = _containers(_values(container) for container, _ in held.values())
        # Those that only names and attributes are bound to can be given up for two.
        self.shared = {*outer, *inside}
        self.contents = {**_containers([self.vars.values()]), **outer, **held}

    def restore(self, interp, env) -> None:
        interp.config_values = dict(self.config)
        if env is not None:
            env.vars.clear()
            env.vars.update(self.vars)
        for module, attrs in self.attrs.items():
            module.attrs = dict(attrs)
            module.maybe = set(self.maybe[module])
        for container, held in self.contents.values():
            _fill(container, held)

    def of(self, value: Any, apart: set[int]) -> Any:
        """A value as it was then, where a container of it has become two."""
        if id(value) in apart:
            return _copy(self.contents[id(value)][1])
        if type(value) is tuple:
            return tuple(self.of(v, apart) for v in value)
        return value


@dataclass
class Side:
    """How a side was left (None: at its end), and the state behind it."""

    signal: Any
    state: State


def merge(interp, cond, then: State, other: State, env) -> set[int]:
    """Go on with what was changed on either side. env: None where the call is left.

    Returns the ids of the local containers that are two from here on. Raises Refused
    where one that is known elsewhere is.
    """
    apart = _merge_contents(interp, cond, then, other)
    if env is not None:
        _merge_names(interp, cond, then, other, env, apart)
    _merge_config(interp, cond, then.config, other.config)
    for module, attrs in then.attrs.items():
        others = other.attrs.get(module)
        if others is None:
            continue  # made on one side
        maybe = then.maybe[module], other.maybe[module]
        module.maybe = maybe[0] | maybe[1]
        for name in [*attrs, *(n for n in others if n not in attrs)]:
            left, right = attrs.get(name, MISSING), others.get(name, MISSING)
            if left is not right or id(left) in apart:
                sides = then.of(left, apart), other.of(right, apart)
                unset = name in maybe[0], name in maybe[1]
                left = _join_attribute(interp, cond, module, name, *sides, unset)
            module.attrs[name] = left
    return apart


def _merge_contents(interp, cond, then: State, other: State) -> set[int]:
    apart: set[int] = set()
    for ident, (container, left) in then.contents.items():
        if ident not in other.contents:
            continue
        right = other.contents[ident][1]
        if _alike(left, right):
            _fill(container, left)
        elif ident in then.shared or ident in other.shared:
            joined = interp.join(cond, left, right)
            if type(joined) is not type(container):
                raise interp.gap(
                    "a list that outlives this branch is changed on one side of it"
                )
            _fill(container, joined)
        else:
            apart.add(ident)
    return apart


def _merge_names(interp, cond, then: State, other: State, env, apart) -> None:
    names = [*then.vars, *(n for n in other.vars if n not in then.vars)]
    for name in names:
        left = then.of(then.vars.get(name, MISSING), apart)
        right = other.of(other.vars.get(name, MISSING), apart)
        if left is MISSING or right is MISSING:
            kept = right if left is MISSING else left
            env.vars[name] = Choice(cond, left, right)
            if isinstance(kept, (Module, Function)):
                env.vars[name] = kept
        else:
            env.vars[name] = interp.join(cond, left, right)
            interp.hint(env.vars[name], name, env)


def _merge_config(interp, cond, then: dict, other: dict) -> None:
    """Fields that one side has written; on the other they are what they were."""
    interp.config_values = {}
    for path, name in [*then, *(k for k in other if k not in then)]:
        old = config_field(path, name)
        left, right = then.get((path, name), old), other.get((path, name), old)
        interp.config_values[path, name] = interp.join(cond, left, right)


def _join_attribute(
    interp, cond, module: Module, name: str, left, right, unset: tuple[bool, bool]
):
    """A module that one side hasn't set is None there, and noted in `maybe`. unset: of
    which side None says that already."""
    said = (left is None and not unset[0]) or (right is None and not unset[1])
    if said and any(unset):
        raise interp.gap(f"`{name}` is None in some configs and not there in others")
    if isinstance(right if left is MISSING else left, Module):
        if left is MISSING or right is MISSING:
            module.maybe.add(name)
        left = None if left is MISSING else left
        right = None if right is MISSING else right
    return interp.join(cond, left, right)


def _containers(groups: Iterable[Iterable[Any]]) -> Contents:
    """Lists and dictionaries among the values, and inside one another."""
    found: Contents = {}
    stack = [value for group in groups for value in group]
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind is tuple:
            stack.extend(value)
        elif kind in (list, dict) and id(value) not in found:
            found[id(value)] = value, _copy(value)
            stack.extend(_values(value))
    return found


def _values(container: Any) -> Iterable[Any]:
    return container if isinstance(container, list) else container.values()


def _fill(container: Any, held: Any) -> None:
    if isinstance(container, list):
        container[:] = held
    else:
        container.clear()
        container.update(held)


def _alike(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(a[k] is b[k] for k in a)
    return all(x is y for x, y in zip(a, b, strict=True))


def _copy(value: Any) -> Any:
    return value.copy()
