"""What transformers' own API, and Python's builtins, mean to the interpreter.

These names are evidence because they are the library's, not the author's: caches, masks,
ACT2FN, the attention interface, rope initialisation, model outputs.
"""

import ast
import math
from fractions import Fraction
from typing import Any

from porter.analyze import expert_loops, legacy_cache, old_configs, torch_elementwise
from porter.analyze.config_items import read_item
from porter.analyze.expert_loops import ExpertHit, ExpertIndex, PairIndex
from porter.analyze.graph import (
    Node,
    batch_axis,
    feature_axis,
    hist_axis,
    iter_nodes,
    seq_axis,
)
from porter.analyze.inequalities import larger_of
from porter.analyze.initialisation import initialise
from porter.analyze.positions import is_all_ones
from porter.analyze.sequences import SymList
from porter.analyze.symbols import (
    HIST,
    LAYER,
    PAST,
    SEQ,
    Sym,
    arith,
    compare,
    config_field,
    constant,
    is_symbolic,
    negate,
    poly,
    same,
    unwrap,
)
from porter.analyze.values import (
    MISSING,
    Activation,
    Cache,
    CacheLayer,
    CacheLayers,
    Choice,
    Config,
    Context,
    Dtype,
    DtypeOf,
    External,
    Module,
    Opaque,
    Output,
    Peeked,
    Super,
    is_scalar,
)
from porter.release import library_of

_MASKS = {
    "create_causal_mask": "causal",
    "create_sliding_window_causal_mask": "sliding",
    "create_chunked_causal_mask": "chunked",
}
_MASK_ARGS = {
    "config", "inputs_embeds", "input_embeds", "attention_mask", "cache_position",
    "past_key_values", "position_ids", "layer_idx", "allow_is_causal_skip",
}  # fmt: skip
_MASK_ORDER = [
    "config",
    "inputs_embeds",
    "attention_mask",
    "past_key_values",
    "position_ids",
]


# functions of transformers.activations that ACT2FN knows by the same name
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "quick_gelu", "silu", "mish")

# -- attributes and items


def external_attribute(name: External) -> Any:
    head, _, last = name.name.rpartition(".")
    if head == "torch":
        dtype = torch_elementwise.dtype_of(last)
        if dtype is not None:
            return dtype
    if head == "math" and last in ("pi", "inf", "e"):
        return getattr(math, last)
    return name


def external_item(interp, table: External, index) -> Any:
    last = table.name.rsplit(".", 1)[-1]
    if last in ("ACT2FN", "ACT2CLS"):
        if not is_scalar(index):
            raise interp.gap("ACT2FN with a key that can't be followed")
        return Activation(
            unwrap(index) if not isinstance(index, str) else index, interp.span()
        )
    if last == "ROPE_INIT_FUNCTIONS":
        return RopeInit(index)
    if last in ("ALL_ATTENTION_FUNCTIONS",):
        raise interp.gap("an attention function other than eager")
    return Opaque(f"an item of `{table.name}`")


def activation_class(interp, act: Activation):
    """The library's class behind ACT2CLS[name], which the source builds by itself."""
    file = interp.sources.load(library_of(interp.file.path) / "activations.py")
    table = file.names.get("ACT2CLS")
    if isinstance(act.name, str) and isinstance(table, ast.Dict):
        for name, entry in zip(table.keys, table.values, strict=True):
            if isinstance(name, ast.Constant) and name.value == act.name:
                if isinstance(entry, ast.Name):
                    return interp.sources.lookup(file, entry.id)
    raise interp.gap("an activation that is built with arguments")


class RopeInit(External):
    """ROPE_INIT_FUNCTIONS[rope_type]: transformers' own frequencies."""

    rope_type: Any

    def __init__(self, rope_type):
        object.__setattr__(self, "name", "transformers.ROPE_INIT")
        object.__setattr__(self, "rope_type", rope_type)

    def call(self, interp, args: list, kwargs: dict):
        given = [a for a in [*args, *kwargs.values()] if isinstance(a, Config)]
        if not given or given[0].path != interp.config.path:
            raise interp.gap("rope is initialised from another config")
        if any(name != "rope_parameters" for name, _ in given[0].changed):
            raise interp.gap("rope is initialised from a config that was changed")
        default = self._default(interp)
        kind = compare("eq", self.rope_type, "default")
        if default is None or kind is False:
            return self._scaled(interp, given[0], kwargs)
        by_default = interp.call(default, args, kwargs)
        if kind is True:
            return by_default
        return interp.join(kind, by_default, self._scaled(interp, given[0], kwargs))

    def _default(self, interp):
        """The default type's function where the table has one, as before transformers 5:
        it is read as a model's own code is."""
        path = library_of(interp.file.path) / "modeling_rope_utils.py"
        if not path.is_file():
            return None
        file = interp.sources.load(path)
        table = file.names.get("ROPE_INIT_FUNCTIONS")
        for name, fn in _entries(table):
            if name == "default":
                return interp.sources.lookup(file, fn)
        return None

    def _scaled(self, interp, config: Config, kwargs: dict):
        extra = set(kwargs) - {"config", "device", "seq_len", "layer_type"}
        if extra:
            raise interp.gap(f"rope is initialised with {sorted(extra)}")
        size = Sym("call", ("rope_frequencies",))
        parameters = _rope_parameters(interp, config, kwargs.get("layer_type"))
        of = (self.rope_type, parameters)
        inv_freq = interp.node("rope_init", of, (feature_axis(size),), dtype="float32")
        return inv_freq, Sym("rope_scaling", of)


def _entries(table):
    """(key, name) of a table of functions as it is written."""
    if isinstance(table, ast.Dict):
        for k, v in zip(table.keys, table.values, strict=True):
            if isinstance(k, ast.Constant) and isinstance(v, ast.Name):
                yield k.value, v.id


def _rope_parameters(interp, config: Config, layer_type):
    """What transformers' initialisation reads: the parameters, or those of one type."""
    field = config_field(config.path, "rope_parameters")
    everything = dict(config.changed).get("rope_parameters", field)
    return everything if layer_type is None else Sym("item", (everything, layer_type))


# -- calls


def call(interp, name: str, args: list, kwargs: dict) -> Any:
    short = name.rsplit(".", 1)[-1]
    if name == "torch.nn.Parameter" or name == "torch.nn.parameter.Parameter":
        return stored(interp, "parameter", args[0] if args else kwargs["data"])
    if name in ("torch.nn.Buffer", "torch.nn.parameter.Buffer"):
        persistent = kwargs.get("persistent", args[1] if len(args) > 1 else True)
        return stored(interp, "buffer", args[0], persistent)
    if name in ("copy.copy", "copy.deepcopy") and isinstance(args[0], Config):
        return Config(args[0].path, args[0].fields, args[0].changed, copied=True)
    if name.startswith(("transformers.initialization.", "torch.nn.init.")):
        return initialise(interp, short, args, kwargs)
    if not name.startswith("transformers"):
        return NotImplemented
    if short in _MASKS:
        return mask(interp, _MASKS[short], args, kwargs)
    if short == "ROPE_INIT":
        raise interp.gap("rope initialisation isn't followed here")
    if short.endswith("Cache") or short == "from_legacy_cache":
        if interp.cacheless:
            raise interp.gap("a cache that the model isn't given at the next step")
        if short == "from_legacy_cache" and args:
            if isinstance(args[0], Cache):
                return args[0]
            if legacy_cache.is_past(args[0]):
                interp.past.touched = True
        interp.caches += 1
        return Cache(short if short.endswith("Cache") else "DynamicCache")
    if is_output(name):
        return Output(dict(kwargs))
    if short == "slice_logits_to_keep":
        kept = args[1] if len(args) > 1 else kwargs.get("logits_to_keep")
        if not isinstance(kept, int) or kept != 0:
            raise interp.gap("only some positions' logits are made")
        return args[0] if args else kwargs["hidden_states"]
    if short == "get_interface":
        return kwargs.get("default", args[1] if len(args) > 1 else None)
    if short in ("is_flash_attention_requested", "is_flash_attn_requested"):
        return False  # the reference is eager attention
    if short == "maybe_autocast":
        return Opaque(short)
    if short in (
        "is_torchdynamo_compiling",
        "is_tracing",
        "is_torch_fx_proxy",
        "is_flash_attn_available",
        "is_torch_available",
    ):
        return False
    if short == "get_activation" and len(args) == 1 and is_scalar(args[0]):
        wanted = args[0] if isinstance(args[0], str) else unwrap(args[0])
        return Activation(wanted, interp.span())
    if name.startswith("transformers.activations.") and len(args) == 1:
        act = Activation(short, interp.span())
        if isinstance(args[0], Node) and short in _ACTIVATIONS:
            return torch_elementwise.activation(interp, act, args[0])
    if short == "apply_chunking_to_forward":
        return interp.call(args[0], args[3:], {})
    if any(_holds_node(a) for a in [*args, *kwargs.values()]):
        raise interp.gap(f"`{name}` isn't known to porter")
    return Opaque(f"`{name}(...)`")


def is_output(name: str) -> bool:
    """Whether a class of the library's is one of transformers' model outputs."""
    short = name.rsplit(".", 1)[-1]
    return name.startswith("transformers") and (
        "modeling_outputs" in name or short.endswith(("Output", "OutputWithPast"))
    )


def make_output(interp, cls, args: list, kwargs: dict) -> Output:
    """An output class of the author's: fields by name, and no code of its own."""
    from porter.analyze.interpreter import lineage

    for klass in lineage(cls):
        if args or any(isinstance(s, ast.FunctionDef) for s in klass.node.body):
            raise interp.gap(f"`{cls.name}` isn't a plain model output")
    return Output(dict(kwargs))


def _holds_node(value) -> bool:
    return any(True for _ in iter_nodes(value))


def stored(interp, op: str, init, persistent: bool = True) -> Node:
    """A parameter or buffer of the module under construction."""
    if not isinstance(init, Node):
        raise interp.gap("a parameter made from something that can't be followed")
    made = interp.node(op, (init,), init.axes, persistent=persistent, unique=object())
    made.dtype = init.dtype if op == "buffer" else None
    made.attrs.pop("slot", None)
    return made


def mask(interp, kind: str, args: list, kwargs: dict) -> Node:
    """transformers' mask functions: a node that only attention may read."""
    given = {**dict(zip(_MASK_ORDER, args, strict=False)), **kwargs}
    extra = {
        k for k, v in given.items() if k not in _MASK_ARGS and not _left_out(interp, v)
    }
    if extra:
        raise interp.gap(
            f"the attention mask is changed by {sorted(extra)}",
            "vLLM's attention takes causal and sliding-window masks",
        )
    config = given.get("config")
    if not isinstance(config, Config):
        raise interp.gap("the attention mask is made from another config")
    given_mask = given.get("attention_mask")
    if given_mask is not None and not is_all_ones(given_mask):
        raise interp.gap("the attention mask is changed before it is used")
    if not _is_plain_positions(interp, given.get("position_ids")):
        raise interp.gap(
            "the attention mask is made from other positions",
            "positions that repeat or jump make it mask between them",
        )
    window = None
    if kind != "causal":
        name = "sliding_window" if kind == "sliding" else "attention_chunk_size"
        window = interp.config_attribute(config, name)
    axes = (batch_axis(), (), seq_axis(), hist_axis())
    return interp.node("mask", (window,), axes, kind=kind)


def _left_out(interp, value) -> bool:
    """Whether an argument isn't given, or only under a condition that a port refuses."""
    value = interp.resolve(value)
    if isinstance(value, Choice):
        if _left_out(interp, value.other):
            return interp.refuse_where(value.cond)
        return _left_out(interp, value.then) and interp.refuse_where(negate(value.cond))
    return value is None or value is MISSING


def _is_plain_positions(interp, value) -> bool:
    while isinstance(value, Node) and value.op == "rearrange":
        value = value.args[0]
    plain = ("positions", "seq_index") if interp.first_step else ("positions",)
    return value is None or (isinstance(value, Node) and value.op in plain)


# -- methods of the library's objects


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
    if isinstance(obj, (Dtype, DtypeOf)):
        return False if name == "is_complex" else True
    raise interp.gap(f"`.{name}()` of a {type(obj).__name__} isn't followed")


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


def remembered(interp, states) -> Node:
    """Keys or values with those of the tokens before: seq becomes history."""
    if not isinstance(states, Node):
        raise interp.gap("the cache is given something that isn't a tensor")
    axes = tuple(
        tuple(hist_axis()[0] if f.role == "seq" else f for f in axis)
        for axis in states.axes
    )
    if axes == states.axes or not any(f.role == "hist" for a in axes for f in a):
        raise interp.gap("what is cached has no token axis")
    return interp.node("remember", (states,), axes, dtype=states.dtype)


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
        _setattr(interp, obj, slot, value)
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
    if any(_holds_node(a) for a in [*args, *kwargs.values()]):
        raise interp.gap(f"`.{name}()` of a module isn't followed")
    return Opaque(f"`.{name}()` of a module")


def _dict_method(interp, obj: dict, name: str, args: list, kwargs: dict):
    families = [k for k in obj if not isinstance(k, (str, int, float, tuple))]
    if families and name != "copy":
        raise interp.gap(f"`.{name}()` of a dictionary by layer type isn't followed")
    if name == "get":
        if is_symbolic(args[0]):
            return interp.subscript(obj, args[0])
        return obj.get(args[0], args[1] if len(args) > 1 else None)
    if name == "pop":
        return obj.pop(args[0], args[1] if len(args) > 1 else None)
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


# -- builtins


def builtin(interp, name: str, args: list, kwargs: dict) -> Any:
    fn = _BUILTINS.get(name)
    if fn is not None:
        return fn(interp, *args, **kwargs)
    if name.endswith(("Error", "Exception", "Warning")):
        return Opaque(name)
    raise interp.gap(f"the builtin `{name}` isn't followed")


def _int(interp, x=0):
    number = constant(x)
    if number is not None:
        return int(number)
    inner = unwrap(x)
    if isinstance(inner, Sym) and inner.op == "mul" and same(inner.args[1], 1):
        x = inner.args[0]  # int(size * 1.0), with a factor that isn't there
        if interp.is_size(unwrap(x)):
            return x
    if isinstance(inner, Sym):
        return Sym("call", ("int", x))
    return Opaque("int()")


def _float(interp, x=0.0):
    number = constant(x)
    if number is not None and not isinstance(x, str):
        return float(number)
    if isinstance(x, str):
        return float(x)
    return x


def _bool(interp, x=False):
    return interp.truth(x)


def _len(interp, x):
    x = interp.resolve(x)
    if isinstance(x, legacy_cache.PastLayer):
        return 2
    if isinstance(x, (tuple, list, dict, str)):
        return len(x)
    if isinstance(x, Node):
        from porter.analyze.graph import axis_size

        return axis_size(x.axes[0])
    if isinstance(x, PairIndex):
        return expert_loops.PAIRS
    if isinstance(x, CacheLayers):
        return math.inf
    if isinstance(x, Module) and x.leaf == "torch.nn.ModuleList":
        return x.count if x.element is not None else len(x.attrs.get("items", []))
    if isinstance(unwrap(x), Sym):
        return Sym("call", ("len", x))
    raise interp.gap("`len` of something that can't be followed")


def _range(interp, *args):
    from porter.analyze.sequences import SymRange

    numbers = [constant(a) for a in args]
    if all(
        n is not None and not is_symbolic(a) for n, a in zip(numbers, args, strict=True)
    ):
        return range(*[int(n) for n in numbers])
    if len(args) == 1:
        return SymRange(0, args[0])
    if len(args) == 2:
        return SymRange(args[0], args[1])
    raise interp.gap("this range isn't followed")


def _enumerate(interp, x, start=0):
    from porter.analyze.sequences import Enumerated, SymList

    if interp.layer_iteration(x) is not None:
        return Enumerated(x)
    if isinstance(x, SymList):
        raise interp.gap("`enumerate` of a list of symbolic length")
    return [(start + i, item) for i, item in enumerate(interp.sequence(x))]


def _zip(interp, *args, **kwargs):
    from porter.analyze.sequences import Zipped

    if any(interp.layer_iteration(a) is not None for a in args):
        return Zipped(args)
    return list(zip(*[interp.sequence(a) for a in args], strict=False))


def _isinstance(interp, x, kinds):
    kinds = kinds if isinstance(kinds, (tuple, list)) else (kinds,)
    x = interp.resolve(x)
    verdicts = [_is_kind(interp, x, k) for k in kinds]
    if any(v is True for v in verdicts) or all(v is False for v in verdicts):
        return any(v is True for v in verdicts)
    unknown = [v for v in verdicts if v is not False]
    return unknown[0] if len(unknown) == 1 else Sym("or", tuple(unknown))


def _is_kind(interp, x, kind) -> Any:
    name = kind.name if isinstance(kind, External) else getattr(kind, "name", "")
    short = name.rsplit(".", 1)[-1]
    plain = {
        "int": int,
        "float": float,
        "str": str,
        "dict": dict,
        "list": list,
        "tuple": tuple,
        "bool": bool,
    }
    inner = unwrap(x)
    if legacy_cache.is_past(x):
        return short in ("tuple", "list")
    none = old_configs.scaling_is_none(interp.config, inner)
    if none is not None and short == "dict":
        return interp.decide(negate(none))
    if isinstance(inner, Sym):
        if short in plain and inner.op == "field":
            return Sym("isinstance", (inner, short))
        raise interp.gap("the type of a config value decides here")
    if short in plain:
        return isinstance(inner, plain[short])
    if short in ("Tensor", "LongTensor", "FloatTensor"):
        return isinstance(x, Node)
    if isinstance(x, Cache):
        return short in ("Cache", x.kind)
    if isinstance(x, Module):
        from porter.analyze.interpreter import lineage

        own = x.cls is not None and any(c is kind for c in lineage(x.cls))
        return x.leaf == name or own
    return False


def _getattr(interp, obj, name, *default):
    obj = interp.resolve(obj)
    if isinstance(unwrap(name), Sym):
        found = MISSING
        if isinstance(obj, Module) and not default:
            found = interp.built_attribute(obj, unwrap(name))
        if found is MISSING:
            raise interp.gap("`getattr` of a name that can't be followed")
        return found
    if isinstance(obj, Config):
        known = obj.fields is None or obj.fields.declares(name) or not default
        if known and obj.fields is not None:
            return interp.config_attribute(obj, name)
        if name == "_attn_implementation":
            return "eager"
        if not default:
            return interp.config_attribute(obj, name)
        if old_configs.lacks(obj, name):
            return default[0]
        return Sym("or_default", (obj.path, name, default[0]))
    if isinstance(obj, Module):
        if not default or _module_has(interp, obj, name):
            return interp.module_attribute(obj, name)
        return default[0]
    if isinstance(obj, Peeked) and not _module_has(interp, obj.module, name):
        return default[0] if default else None
    if isinstance(obj, (Node, Opaque, Peeked)):
        return interp.attribute(obj, name)
    if isinstance(obj, Cache) or obj is None:
        return default[0] if default else None
    if isinstance(obj, External):
        return interp.attribute(obj, name)
    raise interp.gap("`getattr` isn't followed here")


def _listed(interp, x):
    """A set of the config's items, in whatever order: it stays one."""
    from porter.analyze.families import SymSet

    x = interp.resolve(x)
    return x if isinstance(x, (SymSet, SymList)) else None


def _setattr(interp, obj, name, value) -> None:
    name = unwrap(name)
    if isinstance(name, str):
        interp.set_attribute(obj, name, value)
    elif isinstance(name, Sym) and name.op == "format" and isinstance(obj, Module):
        interp.set_built_attribute(obj, name, value)
    else:
        raise interp.gap("an attribute whose name can't be followed is set")


def _module_has(interp, obj: Module, name: str) -> bool:
    from porter.analyze.values import MISSING

    if name in obj.attrs or name == "training":
        return True
    return any(
        interp._class_member(c, name, obj) is not MISSING for c in interp._lineage(obj)
    )


def _hasattr(interp, obj, name):
    obj = interp.resolve(obj)
    if isinstance(obj, Config):
        return interp.config_has(obj, name)
    if isinstance(obj, Module):
        return _module_has(interp, obj, name)
    if isinstance(obj, Peeked):
        return _module_has(interp, obj.module, name)
    return False


def _extreme(which: str):
    def fn(interp, *args, **kwargs):
        values = interp.sequence(args[0]) if len(args) == 1 else list(args)
        numbers = [constant(v) for v in values]
        if all(n is not None for n in numbers):
            return max(numbers) if which == "max" else min(numbers)
        if len(values) == 2 and not kwargs:
            known = larger_of(*values)
            if known is not None:
                return values[known if which == "max" else 1 - known]
        return Sym("call", (which, *values))

    return fn


def _type(interp, x):
    return Opaque("a type")


def _all(interp, x):
    verdicts = [interp.truth(v) for v in interp.sequence(x)]
    if all(isinstance(v, bool) for v in verdicts):
        return all(verdicts)
    raise interp.gap("`all` depends on the config")


def _any(interp, x):
    verdicts = [interp.truth(v) for v in interp.sequence(x)]
    if all(isinstance(v, bool) for v in verdicts):
        return any(verdicts)
    raise interp.gap("`any` depends on the config")


_BUILTINS: dict[str, Any] = {
    "int": _int, "float": _float, "bool": _bool, "len": _len, "range": _range,
    "enumerate": _enumerate, "zip": _zip, "isinstance": _isinstance, "getattr": _getattr,
    "hasattr": _hasattr, "max": _extreme("max"), "min": _extreme("min"), "type": _type,
    "str": lambda interp, x="": x if isinstance(x, str) else Opaque("a string"),
    "tuple": lambda interp, x=(): _listed(interp, x) or tuple(interp.sequence(x)),
    "list": lambda interp, x=(): _listed(interp, x) or list(interp.sequence(x)),
    "dict": lambda interp, x=None, **kw: {**(x or {}), **kw},
    "slice": lambda interp, *a: slice(*a),
    "print": lambda interp, *a, **k: None,
    "callable": lambda interp, x: True,
    "abs": lambda interp, x: abs(constant(x)),
    "all": _all, "any": _any,
    "set": lambda interp, x=(): interp.symbolic_set(x) or list(interp.sequence(x)),
    "sorted": lambda interp, x: _listed(interp, x) or sorted(interp.sequence(x)),
    "setattr": lambda interp, obj, name, value: _setattr(interp, obj, name, value),
    "round": lambda interp, x: Sym("call", ("round", x)),
    "sum": lambda interp, x: _sum(interp, x),
    "reversed": lambda interp, x: interp.sequence(x)[::-1],
}  # fmt: skip


def _sum(interp, x):
    out: Any = 0
    for item in interp.sequence(x):
        out = interp.binary(ast.Add, out, item)
    return out


def compare_dtypes(interp, op, left, right):
    tags = [
        torch_elementwise.dtype_tag(interp, d)[0] if d is not None else "none"
        for d in (left, right)
    ]
    if tags[0] == tags[1]:
        equal: Any = True
    elif None in tags:
        other = tags[0] if tags[1] is None else tags[1]
        floating = str(other).startswith(("float", "bfloat"))
        both = tuple(str(t) for t in tags)
        equal = Sym("dtype_is", both) if floating else False
    else:
        equal = False
    if isinstance(op, (ast.Eq, ast.Is)):
        return equal
    return negate(equal)
