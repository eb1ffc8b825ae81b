"""What the abstract interpreter computes with, beside tensors (`Node`) and `Sym`s."""

import ast
from dataclasses import dataclass, field
from typing import Any

from porter.analyze.graph import Node, Span
from porter.analyze.symbols import Sym


@dataclass(frozen=True)
class External:
    """A name of torch, transformers or the standard library: `torch.nn.functional.silu`."""

    name: str

    def attr(self, name: str) -> "External":
        return External(f"{self.name}.{name}")


@dataclass(frozen=True)
class Config:
    """The config object, or one nested in it. path: how it is written (`("config",)`)."""

    path: tuple[str, ...]
    fields: Any  # ConfigClass | None
    changed: tuple[tuple[str, Any], ...] = ()  # of a copy: fields that were set anew
    copied: bool = False

    def set(self, name: str, value) -> None:
        """Set a field of a copy, which is no one else's."""
        kept = tuple(item for item in self.changed if item[0] != name)
        object.__setattr__(self, "changed", (*kept, (name, value)))


@dataclass(eq=False)
class Class:
    """A class of the author's, with the file it stands in."""

    name: str
    node: ast.ClassDef
    file: Any  # SourceFile
    bases: list[Any] = field(default_factory=list)  # Class | External


@dataclass(eq=False)
class Function:
    node: ast.FunctionDef | ast.Lambda
    file: Any
    owner: Class | None = None
    closure: Any = None
    dynamic_rope: bool = False
    config_defaults: bool = False
    static: bool = False
    of_class: bool = False

    @property
    def name(self) -> str:
        return getattr(self.node, "name", "<lambda>")


@dataclass(eq=False)
class Bound:
    """A method of an instance; `start` is the class after which super() looks."""

    inst: "Module"
    function: Function


@dataclass(eq=False)
class Super:
    inst: "Module"
    after: Class


@dataclass(eq=False)
class ExternalMethod:
    """A method that a value of torch's or transformers' has: tensor.view, cache.update."""

    obj: Any
    name: str


@dataclass(eq=False)
class Module:
    """An instance of an nn.Module: the author's class, or a leaf of torch's.

    leaf: `torch.nn.Linear` etc. where the class is, or extends, one of torch's; `args` are
    then its constructor arguments by name. path: attribute names from the root, with `*`
    for an element of a ModuleList. transposed: whether a checkpoint has its weight as
    [in, out].
    """

    cls: Class | None
    leaf: str | None
    span: Span
    args: dict[str, Any] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)  # of the constructor, as bound
    given: set[str] = field(default_factory=set)
    owner: "Module | None" = None
    name: str = ""
    cond: Any = None
    replaced: Any = None  # what a transform decided that it becomes (a Layer)
    element: "Module | None" = None  # of a ModuleList: its one symbolic element
    count: Any = None
    either: "Choice | None" = None  # of a ModuleList: its element, by the layer
    families: list = field(default_factory=list)  # (built name, value) by layer type
    transposed: bool = False
    maybe: set[str] = field(default_factory=set)  # modules that some configs don't set

    @property
    def path(self) -> tuple[str, ...]:
        if self.owner is None:
            return ()
        return (*self.owner.path, self.name)

    @property
    def kind(self) -> str:
        return self.cls.name if self.cls else str(self.leaf)


@dataclass(frozen=True)
class Peeked:
    """One layer of many, that is only asked what it has."""

    module: Module


@dataclass(eq=False)
class Choice:
    """Either of two values that aren't both tensors or scalars, by a config condition."""

    cond: Any
    then: Any
    other: Any


@dataclass(eq=False)
class Cache:
    """transformers' key/value cache. kind: the name of its class. A static one has room
    for tokens to come, which a causal mask hides; it is taken for one without."""

    kind: str = "DynamicCache"

    @property
    def is_static(self) -> bool:
        return self.kind in ("StaticCache", "HybridCache", "SlidingWindowCache")


@dataclass(eq=False)
class CacheLayers:
    """The caches of all layers; every layer has its place among them."""


@dataclass(eq=False)
class CacheLayer:
    """The cache of one layer. filled: whether a token is in it before this step."""

    index: Any

    @property
    def filled(self) -> Sym:
        return Sym("cached", (self.index,))


@dataclass(frozen=True)
class Apply:
    """`F.apply` of a torch.autograd.Function: its forward, as far as inference goes."""

    cls: Class


@dataclass(frozen=True)
class FromConfig:
    """`_from_config` of PreTrainedModel: it builds the class from a config."""

    cls: Class


@dataclass(frozen=True)
class Context:
    """What such a forward is given to remember things for its backward."""


@dataclass(frozen=True)
class DtypeOf:
    node: Node


@dataclass(frozen=True)
class Dtype:
    name: str  # "float32"


class Finfo:
    """torch.finfo of the activations: its limits only block scores."""


class Device:
    """Where a tensor is: never matters to a port."""


@dataclass(frozen=True)
class DeviceType:
    """`device.type`: any of those that vLLM runs on."""


DEVICE = Device()


@dataclass(frozen=True)
class Opaque:
    """A value porter doesn't know and need not know until something depends on it."""

    what: str


@dataclass(eq=False)
class Activation:
    """ACT2FN[name]: the activation that a config names."""

    name: Any  # Sym | str
    span: Span


@dataclass(eq=False)
class Output:
    """A transformers ModelOutput: fields by name. properties: of the author's class,
    which aren't followed."""

    fields: dict[str, Any]
    properties: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Missing:
    """A key or attribute that is absent on one side of a condition."""


MISSING = Missing()


def is_scalar(x) -> bool:
    return isinstance(x, (Sym, int, float, bool, str)) or x is None


def does_nothing(value) -> bool:
    """Whether a module's place is empty, or held by one that returns what it is given."""
    return value is None or (
        isinstance(value, Module) and value.leaf == "torch.nn.Identity"
    )
