"""The zoo's rule, held against what transformers itself says of its classes."""

import subprocess
import sys

import pytest

from porter.gap import UsageError
from porter.zoo.listing import find, list_zoo


def test_the_zoo_has_about_what_was_surveyed() -> None:
    zoo = list_zoo()
    assert 125 <= len(zoo) <= 145
    assert len({s.architecture for s in zoo}) == len(zoo)


@pytest.mark.parametrize(
    "architecture",
    [
        "OPTForCausalLM",
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "MixtralForCausalLM",
        "MambaForCausalLM",
        "XGLMForCausalLM",
        "Mistral4ForCausalLM",
    ],
)
def test_decoders_are_in(architecture: str) -> None:
    assert architecture in {s.architecture for s in list_zoo()}


@pytest.mark.parametrize(
    "architecture",
    [
        "BertLMHeadModel",
        "BartForCausalLM",
        "RobertaForCausalLM",
        "WhisperForCausalLM",
        "XLNetLMHeadModel",
        "XLMWithLMHeadModel",
        "FuyuForCausalLM",
        "Gemma3ForConditionalGeneration",
        "MusicgenForCausalLM",
        "TrOCRForCausalLM",
    ],
)
def test_encoders_and_other_modalities_are_out(architecture: str) -> None:
    assert architecture not in {s.architecture for s in list_zoo()}


def test_names_find_by_architecture_type_and_folder() -> None:
    names = ("Qwen3_5ForCausalLM", "qwen3_5_text", "qwen3_5")
    assert [find([name])[0].architecture for name in names] == [names[0]] * 3
    assert len(find(["opt", "OPTForCausalLM"])) == 1
    with pytest.raises(UsageError, match="bert"):
        find(["bert"])


def test_listing_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from porter.zoo.listing import list_zoo; list_zoo();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
