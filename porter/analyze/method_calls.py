"""Methods of what isn't a tensor: caches, modules, `super()`, dicts and lists."""

from fractions import Fraction
from typing import Any

from porter.analyze import expert_loops, legacy_cache, old_configs
from porter.analyze.config_items import read_item
from porter.analyze.expert_loops import ExpertHit, ExpertIndex, PairIndex
from porter.analyze.hf_api import holds_node, stored
from porter.analyze.kinds import kind_of
from porter.analyze.presence import presence, require_all
from porter.analyze.python_builtins import if_there, set_attribute
from porter.analyze.remember import remembered
from porter.analyze.sequences import SymList
from porter.analyze.symbols import (
    HIST,
    LAYER,
    PAST,
    SEQ,
    Sym,
    arith,
    is_symbolic,
    poly,
    same,
    unwrap,
)
from porter.analyze.values import (
    MISSING,
    Cache,
    CacheLayer,
    Config,
    Context,
    Dtype,
    DtypeOf,
    Module,
    Opaque,
    Super,
    is_scalar,
)


def method(interp, obj, name: str, args: list, kwargs: dict) -> Any:
    if isinstance(obj, (ExpertHit, ExpertIndex, PairIndex)):
        return expert_loops.attribute(interp, obj, name, args)
    if legacy_cache.is_past(obj):
        return legacy_cache.method(interp, obj, name, args)
    if isinstance(obj, Cache):
        if interp.given_cache not in (None, obj):
            raise interp.gap(
                f"`.{name}()` of another cache than that of the steps before"
            )
        return _cache_method(interp, obj, name, args, kwargs)
    if isinstance(obj, Context):
        return None
    if isinstance(obj, CacheLayer):
        return _layer_cache_method(interp, obj, name)
    if isinstance(obj, Super):
        return _super_method(interp, obj, name, args, kwargs)
    if isinstance(obj, Module):
        return _module_method(interp, obj, name, args, kwargs)
    if isinstance(obj, dict):
        return _dict_method(interp, obj, name, args, kwargs)
    if isinstance(obj, (list, tuple)):
        return _list_method(interp, obj, name, args)
    if isinstance(obj, str):
        if any(is_symbolic(a) for a in args):
            return Opaque("a string")
        return getattr(obj, name)(*args, **kwargs)
    if isinstance(obj, Config):
        if name == "get_text_config":
            return obj
        return Opaque(f"config.{name}()")
    if isinstance(unwrap(obj), Sym):
        if name == "get":
            default = args[1] if len(args) > 1 else None
            moved = old_configs.scaling_item(interp.config, obj, args[0])
            if moved is not None:
                return moved
            return read_item(obj, args[0], Sym("get", (unwrap(obj), args[0], default)))
        if name == "item":
            return obj
        if name == "index" and len(args) == 1 and is_scalar(args[0]):
            return Sym("method", (unwrap(obj), name, args[0]))
    if isinstance(obj, (Dtype, DtypeOf)):
        return False if name == "is_complex" else True
    raise interp.gap(f"`.{name}()` of {kind_of(obj)} isn't followed")


def _layer_cache_method(interp, obj: CacheLayer, name: str) -> Any:
    if name in ("numel", "get_seq_length"):
        return Sym("ifexp", (obj.filled, 1, 0))  # what matters is whether it is 0
    raise interp.gap(f"`.{name}()` of a layer's cache isn't followed")


def _cache_method(interp, obj: Cache, name: str, args: list, kwargs: dict) -> Any:
    if name == "update":
        interp.caches += 1
        key_states, value_states = args[0], args[1]
        index = args[2] if len(args) > 2 else kwargs.get("layer_idx")
        if not _own_index(interp, index):
            raise interp.gap(
                "the cache of another layer is written",
                "sharing keys and values between layers isn't ported yet",
            )
        interp.note_cache_write()
        return remembered(interp, key_states), remembered(interp, value_states)
    if name == "update_indexer":
        if not _own_index(interp, args[1] if len(args) > 1 else kwargs["layer_idx"]):
            raise interp.gap("the cache of another layer is written")
        return remembered(interp, args[0])
    if name in ("get_seq_length", "get_usable_length", "get_past_length"):
        return PAST
    if name in ("get_max_cache_shape", "get_max_length", "get_max_cache_length"):
        return HIST if obj.is_static else None
    if name == "get_mask_sizes":
        return arith("add", PAST, SEQ), 0
    if name == "to_legacy_cache":
        return obj
    if name in ("is_compileable", "is_sliding"):
        return Opaque(f"the cache's {name}")
    raise interp.gap(f"`.{name}()` of the cache isn't followed")


def _own_index(interp, index) -> bool:
    """Whether a cache index is that of the module's own: the layer's, or one of several in
    a layer (`2 * layer + i`), which no other module uses."""
    if same(index, LAYER):
        return True
    layer = ((LAYER.key, Fraction(1)),)
    terms = poly(index)
    step, first = terms.get(layer, Fraction(0)), terms.get((), Fraction(0))
    if not set(terms) <= {layer, ()} or not 0 <= first < step:
        return False
    inst = interp.frame.inst if interp.frame is not None else None
    owner = interp.cache_indices.setdefault((step, first), inst)
    return owner is inst and len({k[0] for k in interp.cache_indices}) == 1


def _super_method(interp, obj: Super, name: str, args: list, kwargs: dict):
    from porter.analyze.interpreter import external_bases
    from porter.analyze.torch_modules import bind_leaf, call_leaf, is_leaf

    inst = obj.inst
    leaf = inst.leaf if inst.leaf and is_leaf(inst.leaf) else None
    if name == "__init__":
        if leaf:
            bind_leaf(interp, inst, args, kwargs)
        elif args and isinstance(args[0], Config):
            inst.attrs["config"] = args[0]
        elif isinstance(kwargs.get("config"), Config):
            inst.attrs["config"] = kwargs["config"]
        return None
    if name == "forward" and leaf:
        return call_leaf(interp, inst, args, kwargs)
    if name == "_init_weights":
        return None  # the library's own: parameters, and rope's frequencies as built
    if name == "__getattr__":
        raise interp.gap("`__getattr__` isn't followed")
    bases = [b.name for b in external_bases(inst.cls)] if inst.cls else []
    raise interp.gap(f"`super().{name}` of {bases} isn't followed")


def _module_method(interp, obj: Module, name: str, args: list, kwargs: dict):
    if name == "register_buffer":
        slot = args[0] if args else kwargs["name"]
        if not isinstance(slot, (str, Sym)):
            raise interp.gap("a buffer whose name can't be followed")
        tensor = args[1] if len(args) > 1 else kwargs["tensor"]
        persistent = kwargs.get("persistent", args[2] if len(args) > 2 else True)
        value = None if tensor is None else stored(interp, "buffer", tensor, persistent)
        set_attribute(interp, obj, slot, value)
        return None
    if name == "append" and obj.leaf == "torch.nn.ModuleList":
        if interp.each_loops:
            interp.append_each(obj, args[0])
            return None
        raise interp.gap("layers appended one by one aren't followed")
    if name in (
        "post_init",
        "apply",
        "init_weights",
        "train",
        "eval",
        "requires_grad_",
        "register_load_state_dict_pre_hook",
    ):
        return None
    if name in ("register_forward_hook", "register_forward_pre_hook"):
        raise interp.gap(
            "a forward hook changes what a module computes",
            "write the change into the module's forward",
        )
    if name in ("__call__", "forward"):
        return interp.call_module(obj, args, kwargs)
    if name == "get_head_mask" and args and args[0] is None:
        return SymList(None, args[1])
    if name in ("named_parameters", "parameters") and interp.initialising:
        return []  # parameters: the checkpoint has their values
    if name in ("warn_if_padding_and_no_attention_mask", "get_head_mask"):
        return None if name[0] == "w" else Opaque("a head mask")
    if name in ("register_parameter",):
        interp.set_attribute(obj, args[0], args[1])
        return None
    if name in ("add_module", "register_module"):
        interp.set_attribute(obj, args[0], args[1])
        return None
    if any(holds_node(a) for a in [*args, *kwargs.values()]):
        raise interp.gap(f"`.{name}()` of a module isn't followed")
    return Opaque(f"`.{name}()` of a module")


def _dict_method(interp, obj: dict, name: str, args: list, kwargs: dict):
    families = [k for k in obj if not isinstance(k, (str, int, float, tuple))]
    if families and name == "items" and (each := interp.family_items(obj)):
        return each
    if families and name != "copy":
        raise interp.gap(f"`.{name}()` of a dictionary by layer type isn't followed")
    if name == "get":
        if is_symbolic(args[0]):
            return interp.subscript(obj, args[0])
        default = args[1] if len(args) > 1 else None
        found = obj.get(args[0], MISSING)
        there = interp.decide(presence(found))
        return if_there(interp, there, lambda: interp.resolve(found), default)
    if name == "pop":
        found = obj.get(args[0], MISSING)
        there = interp.decide(presence(found))
        if not isinstance(there, bool):
            raise interp.gap(f"whether there is a `{args[0]}` depends on the config")
        obj.pop(args[0], None)
        return found if there else (args[1] if len(args) > 1 else None)
    if name in ("items", "keys", "values"):
        require_all(interp, obj)
    if name == "items":
        return [(k, v) for k, v in obj.items()]
    if name in ("keys", "values"):
        return list(getattr(obj, name)())
    if name == "update":
        obj.update(args[0] if args else kwargs)
        return None
    if name == "copy":
        return dict(obj)
    if name == "setdefault":
        return obj.setdefault(args[0], args[1])
    raise interp.gap(f"`.{name}()` of a dictionary isn't followed")


def _list_method(interp, obj, name: str, args: list):
    if isinstance(obj, tuple):
        if name == "numel":
            out: Any = 1
            for s in obj:
                out = arith("mul", out, s)
            return out
        raise interp.gap(f"`.{name}()` of a tuple isn't followed")
    if name == "append":
        interp.forbid_in_each(obj, appended=True)
        obj.append(args[0])
        return None
    if name == "extend":
        interp.forbid_in_each(obj, appended=True)
        obj.extend(interp.sequence(args[0]))
        return None
    if name == "copy":
        return list(obj)
    raise interp.gap(f"`.{name}()` of a list isn't followed")
