"""What transformers' own API means to the interpreter.

These names are evidence because they are the library's, not the author's: caches, masks,
ACT2FN, the attention interface, rope initialisation, model outputs.
"""

import ast
import math
from typing import Any

from porter.analyze import legacy_cache, torch_elementwise
from porter.analyze.graph import (
    Node,
    batch_axis,
    feature_axis,
    hist_axis,
    iter_nodes,
    seq_axis,
)
from porter.analyze.initialisation import initialise
from porter.analyze.layer_configs import LayerConfig
from porter.analyze.positions import is_all_ones
from porter.analyze.symbols import (
    Sym,
    compare,
    config_field,
    negate,
    unwrap,
)
from porter.analyze.values import (
    MISSING,
    Activation,
    Cache,
    Choice,
    Config,
    External,
    Module,
    Opaque,
    Output,
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
    "past_key_values", "cache", "position_ids", "layer_idx", "allow_is_causal_skip",
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
        given = [
            a.config if isinstance(a, LayerConfig) else a
            for a in [*args, *kwargs.values()]
            if isinstance(a, (Config, LayerConfig))
        ]
        if not given or given[0].path != interp.config.path:
            raise interp.gap(
                "rope is initialised from another config than the model's",
                "vLLM runs one decoder over one sequence of tokens: parts with configs, "
                "lengths and positions of their own (encoders, byte patches) can't be "
                "expressed; port them by hand",
            )
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
    if name in ("collections.UserDict", "collections.OrderedDict") and not args:
        return dict(kwargs)
    if name == "transformers.cache_utils.KVSharingDict":  # a UserDict, since 5.23
        given = args[0] if args else None
        return {**given, **kwargs} if isinstance(given, dict) else dict(kwargs)
    if name in ("copy.copy", "copy.deepcopy") and isinstance(args[0], Config):
        return Config(args[0].path, args[0].fields, args[0].changed, copied=True)
    if name.startswith(("transformers.initialization.", "torch.nn.init.")):
        return initialise(interp, short, args, kwargs)
    if name.startswith("torch.nn.utils."):
        if any(isinstance(a, Module) for a in [*args, *kwargs.values()]):
            raise interp.gap(f"`{name}` changes what a module computes")
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
    if any(holds_node(a) for a in [*args, *kwargs.values()]):
        raise interp.gap(f"`{name}` isn't known to porter")
    return Opaque(f"`{name}(...)`")


def is_output(name: str) -> bool:
    """Whether a class of the library's is one of transformers' model outputs."""
    short = name.rsplit(".", 1)[-1]
    return name.startswith("transformers") and (
        "modeling_outputs" in name or short.endswith(("Output", "OutputWithPast"))
    )


def make_output(interp, cls, args: list, kwargs: dict) -> Output:
    """An output class of the author's: fields by name, and no code of its own but for
    properties, which nobody may read."""
    from porter.analyze.interpreter import lineage

    properties: set[str] = set()
    plain = True
    for klass in lineage(cls):
        code = [s for s in klass.node.body if isinstance(s, ast.FunctionDef)]
        properties |= {s.name for s in code}
        plain = plain and all(map(_is_property, code))
    if args or not plain or properties & kwargs.keys():
        raise interp.gap(f"`{cls.name}` isn't a plain model output")
    return Output(dict(kwargs), frozenset(properties))


def _is_property(code: ast.FunctionDef) -> bool:
    return [getattr(d, "id", None) for d in code.decorator_list] == ["property"]


def holds_node(value) -> bool:
    return any(True for _ in iter_nodes(value))


def stored(interp, op: str, init, persistent: bool = True) -> Node | Opaque:
    """A parameter or buffer of the module under construction."""
    if isinstance(init, Opaque) and op == "buffer" and not persistent:
        return Opaque(f"a buffer made from {init.what}")  # a gap where it is read
    if not isinstance(init, Node):
        raise interp.gap("a parameter made from something that can't be followed")
    if init.op == "random":
        if op != "parameter" and not persistent:
            raise interp.gap("a buffer of random numbers that isn't stored")
        init = interp.node("fill", (0.0,), init.axes, init="empty")
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
