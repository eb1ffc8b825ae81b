"""What `obj[index]` is, and which loops run over layers."""

from typing import Any

from porter.analyze import hf_api, legacy_cache, old_configs, torch_parts
from porter.analyze.config_items import read_item, sliced
from porter.analyze.expert_loops import ExpertHit, ExpertIndex
from porter.analyze.graph import Node
from porter.analyze.kinds import kind_of
from porter.analyze.layer_configs import layer_config
from porter.analyze.part import Part
from porter.analyze.sequences import Enumerated, LayerSlice, SymList, SymRange, Zipped
from porter.analyze.shared_states import Left, Shelf
from porter.analyze.symbols import (
    LAYER,
    Sym,
    arith,
    compare,
    constant,
    is_symbolic,
    same,
    unwrap,
)
from porter.analyze.torch_complex import Complex
from porter.analyze.values import (
    MISSING,
    CacheLayer,
    CacheLayers,
    Choice,
    External,
    Module,
    Opaque,
    Output,
    Peeked,
    is_scalar,
)


class Subscripts(Part):
    """Items of values."""

    def on_Subscript(self, node, env):
        obj = self.resolve(self.eval(node.value, env))
        index = self.eval(node.slice, env)
        return self.subscript(obj, index)

    def subscript(self, obj, index) -> Any:
        obj = self.resolve(obj)
        if isinstance(index, ExpertIndex):
            return self.index_by_expert(obj, index)
        if isinstance(obj, (ExpertHit, ExpertIndex)):
            return self._index_expert(obj, index)
        if isinstance(obj, Node):
            return torch_parts.index(self, obj, index)
        if isinstance(obj, Complex):
            return Complex(self.subscript(part, index) for part in obj)
        if legacy_cache.is_past(obj) or isinstance(obj, legacy_cache.PastShape):
            return legacy_cache.item(self, obj, index)
        if isinstance(obj, (tuple, list)):
            return self._index_sequence(obj, index)
        if isinstance(obj, dict):
            return self._index_dict(obj, index)
        if isinstance(obj, Module):
            return self._index_modules(obj, index)
        if isinstance(obj, Choice):
            if obj.then is None or obj.other is None:
                return self._index_some(obj, index)
            with self.assuming(obj.cond, True):
                a = self.subscript(obj.then, index)
            with self.assuming(obj.cond, False):
                b = self.subscript(obj.other, index)
            return self.join(obj.cond, a, b)
        if isinstance(obj, CacheLayers) and is_scalar(index):
            return CacheLayer(index)
        if isinstance(obj, Shelf):
            return self.left(obj, index)
        if isinstance(obj, Left) and isinstance(index, int):
            return self.left_item(obj, index)
        if isinstance(obj, Output):
            return list(obj.fields.values())[index]
        if isinstance(obj, External):
            return hf_api.external_item(self, obj, index)
        if isinstance(unwrap(obj), Sym):
            return self.decide_item(obj, index)
        if isinstance(obj, SymList) and isinstance(index, Sym) and same(index, LAYER):
            return obj.element
        if isinstance(obj, Opaque):
            return Opaque(f"an item of {obj.what}")
        raise self.gap(f"an item of {kind_of(obj)} isn't followed")

    def _index_some(self, obj: Choice, index) -> Any:
        """An item of what may be None: there the source raises, and None will do."""
        there = obj.then is not None
        with self.assuming(obj.cond, there):
            item = self.subscript(obj.then if there else obj.other, index)
        arms = (item, None) if there else (None, item)
        return self.join(obj.cond, *arms)

    def _index_expert(self, obj, index):
        if index == 0 or isinstance(obj, ExpertHit) and index == (slice(None), 0):
            return obj
        raise self.gap("an item of an expert's number isn't followed")

    def decide_item(self, obj, index):
        if isinstance(index, slice):
            return sliced(obj, index)
        moved = old_configs.scaling_item(self.config, obj, index)
        if moved is not None:
            return moved
        if not is_scalar(index):
            return Opaque("an item at an unknown place")
        own = layer_config(self.config, obj, index)
        if own is not None:
            return own
        return read_item(obj, index)

    def _index_sequence(self, obj, index):
        if isinstance(index, (int, slice)):
            try:
                return obj[index]
            except IndexError:
                raise self.gap(f"index {index} of {len(obj)} items") from None
        if isinstance(unwrap(index), Sym):
            if all(is_scalar(item) for item in obj):
                return Sym("item", (tuple(obj), index))
        raise self.gap("a list is indexed by a config value")

    def _index_dict(self, obj: dict, index):
        if self.family_of(obj) is not None:
            return self.index_family(obj, index)
        if not is_symbolic(index):
            if index in obj:
                return self.resolve(obj[index])
            raise self.gap(f"key {index!r} isn't in the dictionary")
        items = [(k, v) for k, v in obj.items() if v is not MISSING]
        chosen = _present(items[-1][1])
        for name, value in reversed(items[:-1]):
            chosen = self.join(compare("eq", index, name), _present(value), chosen)
        return chosen

    def _index_modules(self, obj: Module, index):
        if obj.leaf != "torch.nn.ModuleList":
            raise self.gap(f"an item of a `{obj.kind}` isn't followed")
        if isinstance(index, slice):
            start = constant(index.start) if index.start is not None else 0
            if isinstance(start, int) and start >= 0 and index.step in (None, 1):
                stop = constant(index.stop) if index.stop is not None else None
                if isinstance(stop, int) and stop < 0:  # from the last one
                    return LayerSlice(obj, start, arith("sub", obj.count, -stop))
                return LayerSlice(obj, start, index.stop)
        elif same(index, LAYER) and obj.element is not None:
            return obj.either or obj.element
        elif index == 0 and obj.element is not None and obj.either is None:
            return Peeked(obj.element)
        elif isinstance(index, int) and isinstance(obj.attrs.get("items"), list):
            return obj.attrs["items"][index]
        raise self.gap("these items of a ModuleList aren't followed")

    def layer_iteration(self, iterable):
        """(ModuleList, loop item, stop) if a loop runs over a list of layers."""
        pick = None
        if isinstance(iterable, Enumerated):
            inner = self.layer_iteration(iterable.inner)
            if inner is not None:
                if inner[2] is not None and inner[2][0]:
                    raise self.gap("layers are counted from another one than the first")
                return inner[0], (LAYER, inner[1]), inner[2]
            return None
        if isinstance(iterable, Zipped):
            parts = [self.layer_iteration(p) for p in iterable.parts]
            layers = [p for p in parts if p is not None]
            if not layers:
                return None
            if any(layer[2] != layers[0][2] for layer in layers):
                raise self.gap("lists of layers that are cut in different places")
            if layers[0][2] is not None and layers[0][2][0]:
                raise self.gap("layers are counted from another one than the first")
            items = []
            for part, layer in zip(iterable.parts, parts, strict=True):
                items.append(layer[1] if layer else self.subscript(part, LAYER))
            return layers[0][0], tuple(items), layers[0][2]
        if isinstance(iterable, LayerSlice):
            start, stop = iterable.start, iterable.stop
            iterable = iterable.modules
            if stop is not None and same(stop, iterable.count):
                stop = None
            pick = (start, stop)
        if isinstance(iterable, SymRange):
            return None
        if isinstance(iterable, Module) and iterable.leaf == "torch.nn.ModuleList":
            if iterable.element is None:
                return None
            return iterable, iterable.either or iterable.element, pick
        return None


def _present(value):
    if isinstance(value, Choice):
        if value.then is MISSING:
            return value.other
        if value.other is MISSING:
            return value.then
    return value
