"""What `obj.name` is, for each kind of value."""

import ast
from typing import Any

from porter.analyze import (
    hf_api,
    legacy_cache,
    old_configs,
    torch_complex,
    torch_creation,
    torch_ops,
)
from porter.analyze.expert_loops import PAIRS, ExpertHit, ExpertIndex, PairIndex
from porter.analyze.graph import Node
from porter.analyze.kinds import kind_of
from porter.analyze.layer_configs import LayerConfig
from porter.analyze.part import Part
from porter.analyze.symbols import (
    Sym,
    config_field,
    contains,
    unwrap,
)
from porter.analyze.torch_complex import Complex
from porter.analyze.torch_selection import Picked
from porter.analyze.values import (
    DEVICE,
    MISSING,
    Apply,
    Bound,
    Cache,
    CacheLayer,
    CacheLayers,
    Choice,
    Class,
    Config,
    Context,
    DeviceType,
    Dtype,
    DtypeOf,
    External,
    ExternalMethod,
    Finfo,
    FromConfig,
    Function,
    Module,
    Opaque,
    Output,
    Peeked,
    Super,
)


class Attributes(Part):
    """Attribute access."""

    def on_Attribute(self, node, env):
        return self.attribute(self.eval(node.value, env), node.attr)

    def attribute(self, obj, name: str) -> Any:
        obj = self.resolve(obj)
        if isinstance(obj, Choice):
            then, other = obj.then, obj.other
            with self.assuming(obj.cond, True):
                left = self.attribute(then, name) if then is not None else None
            with self.assuming(obj.cond, False):
                right = self.attribute(other, name) if other is not None else None
            return self.join(obj.cond, left, right)
        if isinstance(obj, Peeked):
            return self._peek(obj, name)
        if legacy_cache.is_past(obj):
            if name == "shape":
                return legacy_cache.attribute(self, obj, name)
            return ExternalMethod(obj, name)
        if isinstance(obj, Module):
            return self.module_attribute(obj, name)
        if isinstance(obj, Config):
            return self.config_attribute(obj, name)
        if isinstance(obj, LayerConfig):
            return obj.attribute(name)
        if isinstance(obj, Node):
            return torch_ops.tensor_attribute(self, obj, name)
        if isinstance(obj, Super):
            return self.super_attribute(obj, name)
        if isinstance(obj, External):
            return hf_api.external_attribute(obj.attr(name))
        if isinstance(obj, Output):
            if name in obj.properties:
                raise self.gap(f"`{name}` is a property of a model output")
            return obj.fields.get(name)
        if isinstance(obj, PairIndex) and name == "shape":
            return (PAIRS,)
        if isinstance(obj, (ExpertHit, ExpertIndex, PairIndex)):
            return ExternalMethod(obj, name)
        if isinstance(obj, Complex):
            return torch_complex.attribute(self, obj, name)
        if isinstance(obj, Picked):
            return obj.attribute(self, name)
        if isinstance(obj, Cache) and name == "is_compileable":
            return obj.is_static
        if isinstance(obj, Cache) and name == "layers":
            return CacheLayers()
        if isinstance(obj, CacheLayer) and name == "is_initialized":
            return obj.filled
        if isinstance(obj, CacheLayer) and name in ("keys", "values"):
            return obj
        kept = (dict, list, str, Cache, CacheLayer, Context, Dtype, DtypeOf, tuple)
        if isinstance(obj, kept):
            return ExternalMethod(obj, name)
        if isinstance(unwrap(obj), Sym):
            return self.symbol_attribute(obj, name)
        if isinstance(obj, Opaque):
            return Opaque(f"{obj.what}.{name}")
        if isinstance(obj, Class):
            return self.class_attribute(obj, name)
        if isinstance(obj, Function) and name.startswith("__"):
            return Opaque(name)
        if isinstance(obj, Finfo):
            return Sym("finfo", (name,))
        if obj is DEVICE and name == "type":
            return DeviceType()
        if obj is DEVICE:
            return Opaque("a device's attribute")
        raise self.gap(f"`.{name}` of {kind_of(obj)} isn't followed")

    def _peek(self, obj: Peeked, name: str):
        """Something that all layers have alike."""
        value = self.module_attribute(obj.module, name)
        if isinstance(value, Module):
            return Peeked(value)
        if isinstance(unwrap(value), Sym) and not contains(value, "layer"):
            return value
        if isinstance(value, (int, float, str)) or value is None:
            return value
        raise self.gap("one layer alone is used")

    def symbol_attribute(self, obj, name: str):
        inner = unwrap(obj)
        if inner.op in ("field", "item", "get", "or_default", "updated") and name in (
            "get",
            "keys",
        ):
            return ExternalMethod(obj, name)
        if inner.op in ("field", "slice") and name == "index":
            return ExternalMethod(obj, name)
        if name in ("lower", "upper", "startswith", "endswith", "split", "item"):
            return ExternalMethod(obj, name)
        if inner.op == "field":  # a config inside the config
            return config_field((*inner.args[0], inner.args[1]), name)
        raise self.gap(f"`.{name}` of a config value isn't followed")

    def module_attribute(self, obj: Module, name: str) -> Any:
        if name in obj.attrs:
            value = self.resolve(obj.attrs[name])
            if isinstance(value, Sym) and not self._building(obj):
                return Sym("attr", (name,), value, obj)
            return value
        if name == "training":
            return False
        if name == "__class__":
            return obj.cls or Opaque("the class of a module")
        if obj.leaf and name in ("weight", "bias"):
            return torch_creation.leaf_parameter(self, obj, name)
        if obj.leaf and name in obj.args:
            return obj.args[name]
        built = self.built_attribute(obj, name)
        if built is not MISSING:
            return built
        for cls in self._lineage(obj):
            found = self._class_member(cls, name, obj)
            if found is not MISSING:
                return found
        if name == "config" and not obj.leaf:
            return self.config
        if name == "dtype":
            return Dtype("activations")
        if name == "device":
            return DEVICE
        if name in ("float", "to", "half", "bfloat16"):
            return Opaque(f".{name} of a module")
        return ExternalMethod(obj, name)

    def _building(self, obj: Module) -> bool:
        return any(m is obj for m in self.under_construction)

    def _lineage(self, obj: Module):
        from porter.analyze.interpreter import lineage

        return lineage(obj.cls) if obj.cls else []

    def _class_member(self, cls: Class, name: str, inst: Module | None):
        for stmt in reversed(cls.node.body):
            if isinstance(stmt, ast.FunctionDef) and stmt.name == name:
                fn = self.method(stmt, cls)
                if any(
                    isinstance(d, ast.Name) and d.id == "property"
                    for d in stmt.decorator_list
                ):
                    return self.call_function(fn, [], {}, inst)
                return fn if inst is None or fn.static else Bound(inst, fn)
            if isinstance(stmt, ast.Assign) and isinstance(stmt.targets[0], ast.Name):
                if stmt.targets[0].id == name:
                    return self._static(cls, stmt.value)
            if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name):
                if stmt.target.id == name and stmt.value is not None:
                    return self._static(cls, stmt.value)
        return MISSING

    def _static(self, cls: Class, expr: ast.expr):
        from porter.analyze.interpreter import Env

        return self.eval(expr, Env(cls.file))

    def class_attribute(self, obj: Class, name: str):
        from porter.analyze.interpreter import external_bases, lineage

        if name in ("_from_config", "from_config"):
            bases = [b.name.rsplit(".", 1)[-1].lower() for b in external_bases(obj)]
            if "pretrainedmodel" in bases:
                return FromConfig(obj)

        for cls in lineage(obj):
            found = self._class_member(cls, name, None)
            if found is not MISSING:
                return found
        if name == "__name__":
            return obj.name
        if name == "apply" and any(
            b.name.endswith("autograd.Function") for b in external_bases(obj)
        ):
            return Apply(obj)
        return Opaque(f"{obj.name}.{name}")

    def super_attribute(self, obj: Super, name: str):
        fn = self.find_method(obj.inst, name, obj.after)
        if fn is not None:
            return Bound(obj.inst, fn)
        return ExternalMethod(obj, name)

    def config_attribute(self, obj: Config, name: str) -> Any:
        if name in ("_attn_implementation", "attn_implementation"):
            return "eager"  # what every other one computes too
        if name in ("dtype", "torch_dtype"):
            return Dtype("activations")  # what from_pretrained sets it to
        for field, value in obj.changed:
            if field == name:
                return value
        if name in ("get_text_config", "to_dict", "get"):
            return ExternalMethod(obj, name)
        if name in _CONFIG_CONSTANTS:
            return _CONFIG_CONSTANTS[name]
        fields = obj.fields
        if fields is not None and name in fields.sub_configs:
            return Config((*obj.path, name), None)
        if fields is not None:
            name = fields.canonical(name)
        if (obj.path, name) in self.config_values:
            return self.resolve(self.config_values[obj.path, name])
        moved = old_configs.rope_field(obj, name)
        if moved is not None:
            return moved
        return config_field(obj.path, name)


_CONFIG_CONSTANTS = {
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
    "use_cache": True,
    "return_dict": True,
    "use_return_dict": True,
    "gradient_checkpointing": False,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
