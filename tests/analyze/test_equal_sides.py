"""Code that changes nothing of what is ported: the port is the same without it."""

import pytest

from porter.convert import convert
from porter.gap import Refused
from tests.transforms.cases import FOLDER, SCAFFOLD, splice

LOOP = "        for i, layer in enumerate(self.layers):\n"
KEEP = """\
        extra = hidden_states * 2.0 if self.config.score_cap else None
        for i, layer in enumerate(self.layers):
            if i == self.config.num_hidden_layers - 1:
                hidden_states, extra, tables, masks = self.keep_last(
                    hidden_states, extra, tables, masks, KEPT
                )
"""
METHOD = """\
    def keep_last(self, hidden_states, extra, tables, masks, kept):
        whole = hidden_states.shape[1] == 1
        if whole or not isinstance(kept, int):
            return hidden_states, extra, tables, masks
        kept = slice(-kept, None)
        tables = {kind: (a[:, kept], b[:, kept]) for kind, (a, b) in tables.items()}
        masks = {kind: mask[:, :, kept] for kind, mask in masks.items()}
        return hidden_states[:, kept], extra[:, kept], tables, masks

    def forward(
"""
STATES = "        states = {}\n"
SHARING = """\
        states = kwargs.pop("states", None)
        if not isinstance(states, KVSharingDict):
            states = KVSharingDict(states)
"""
IMPORT = "from transformers.cache_utils import Cache, DynamicCache\n"
OUTPUT = """\
class TernOutput(CausalLMOutputWithPast):
    shared: dict | None = None

    @property
    def states(self):
        return self.hidden_states


class TernForCausalLM("""


def case(name: str) -> str:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return splice(SCAFFOLD.read_text(encoding="utf-8"), text.split("# output")[0])[0]


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def port(text: str) -> str:
    return convert(SCAFFOLD, text=text).text


def kept(tokens: str) -> str:
    """The last layer sees the last tokens only, as since transformers 5.23 where layers
    read earlier layers' caches."""
    text = case("substitute_rope/table_of_the_layer_type")
    first, model = text.split("class TernModel(")
    model = model.replace("    def forward(\n", METHOD, 1)
    return (
        f"{first}class TernModel({edited(model, (LOOP, KEEP.replace('KEPT', tokens)))}"
    )


def test_tokens_are_all_kept() -> None:
    assert port(kept("0")) == port(case("substitute_rope/table_of_the_layer_type"))


def test_some_tokens_are_kept() -> None:
    with pytest.raises(Refused, match="takes part of the tokens"):
        port(kept("1"))


def test_the_librarys_dictionary_of_shared_states() -> None:
    text = case("share_caches/last_layers")
    library = IMPORT.replace("DynamicCache", "DynamicCache, KVSharingDict")
    assert port(edited(text, (STATES, SHARING), (IMPORT, library))) == port(text)


def outputs(*edits: tuple[str, str]) -> str:
    return edited(
        SCAFFOLD.read_text(encoding="utf-8"),
        ("class TernForCausalLM(", OUTPUT),
        ("        return CausalLMOutputWithPast(\n", "        return TernOutput(\n"),
        *edits,
    )


def test_a_property_of_an_output_is_no_matter() -> None:
    assert port(outputs()) == port(SCAFFOLD.read_text(encoding="utf-8"))


def test_a_property_of_an_output_is_read() -> None:
    made = "        return BaseModelOutputWithPast(\n            last_hidden_state="
    mine = "        return TernOutput(\n            hidden_states="
    read = ("outputs.last_hidden_state", "outputs.states")
    with pytest.raises(Refused, match="`states` is a property of a model output"):
        port(outputs((made, mine), read))


def test_a_property_of_an_output_stands_for_a_field() -> None:
    hidden = ("    def states(self):\n", "    def logits(self):\n")
    with pytest.raises(Refused, match="`TernOutput` isn't a plain model output"):
        port(outputs(hidden))
