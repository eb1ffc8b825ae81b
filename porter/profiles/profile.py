"""What a vLLM release asks of a model file, as data.

The emitter writes the same model for every release; where releases differ in a name, an
argument or a line, it takes that from the profile. What a release's layers are called and
take stands in `facts/`, read from the release itself (`porter.profiles.extract`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Argument:
    """name: as written in `def forward`. given: what the loop over the layers passes."""

    name: str
    annotation: str
    given: str = ""


@dataclass(frozen=True)
class Profile:
    """One release's contract.

    release: as `--vllm` names it. measured: the version that the facts are of.
    imports: module -> names that a port may use, in the order of the import block.
    embed: the method that looks tokens up.
    model_arguments: of the model's forward, behind the positions. layer_arguments: of
        the forward of each module with attention in it, and of attention itself.
    logits_arguments: of compute_logits, behind the hidden states, and of the processor.
    late_logits: whether something may be computed after the logits processor.
    contiguous_norms: whether a norm reads memory in order whatever the strides are.
    rope: the call. Fields: head_size, max_position, style, parameters.
    rope_partial: an argument of the call where the source rotates a part of the head.
    rope_whole: the parameters of a source that rotates the whole head all the same.
    rope_types: those computed as in transformers; yarn_lacks: parameters of yarn that the
        release doesn't read.
    window: the layer's window as attention is given it, None where it takes it as it is.
    loader: the text of load_weights. Fields: weights, stacked, buffers, unexpected (names
        that are left out where the model has no place for them), tied; tied: what that is
        where the head may be the embedding. Field: head.
    renames: whether the release's WeightsMapper takes regexes and stacked parts.
    lora_lists: whether LoRA asks for lists of modules.
    passed_on: keywords of attention that its signature leaves to the backend.
    head_lines: further lines of the causal LM's constructor; methods: its further methods.
    prepared: word -> lines that come first in the constructor of a port that uses it.
    supplied: name -> function that a port which uses the name carries.
    without: transforms whose layers the release lacks.
    """

    release: str
    measured: str
    imports: Mapping[str, tuple[str, ...]]
    embed: str
    rope: str
    rope_whole: str
    rope_types: tuple[str, ...]
    loader: str
    tied: str = ""
    rope_partial: str = ""
    yarn_lacks: tuple[str, ...] = ()
    model_arguments: tuple[Argument, ...] = ()
    layer_arguments: tuple[Argument, ...] = ()
    logits_arguments: tuple[Argument, ...] = ()
    late_logits: bool = True
    contiguous_norms: bool = False
    window: str | None = None
    renames: bool = True
    lora_lists: bool = False
    passed_on: tuple[str, ...] = ()
    head_lines: tuple[str, ...] = ()
    methods: str = ""
    prepared: Mapping[str, str] = field(default_factory=dict)
    supplied: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def passed(self) -> str:
        """The model's further arguments as a caller gives them on: `, a, b`."""
        return "".join(f", {a.name}" for a in self.model_arguments)

    def taken(self, indent: str) -> str:
        """The model's further arguments as lines of a signature."""
        return "".join(
            f"{indent}{a.name}: {a.annotation},\n" for a in self.model_arguments
        )
