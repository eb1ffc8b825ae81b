"""What a checkpoint has of layers that don't use it, though others of the same name do."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from porter.convert import convert
from porter.runtime.llm import LLM, SamplingParams
from porter.verify.reference import class_of_module
from porter.verify.verification import make_subject
from tests.reference.sources import source_path, source_text

MODULE = "transformers.models.axk1.modeling_axk1"
DECLARED = '_keys_to_ignore_on_load_unexpected = ["inv_freq"]'
# As in transformers 5.24: dense layers have no such norm, checkpoints have it for all.
AGAIN = r'_keys_to_ignore_on_load_unexpected = [r"mlp\.post_mlp_layernorm"]'


def test_it_is_left_out_where_no_parameter_takes_it(tmp_path: Path) -> None:
    text = source_text("axk1")
    assert text.count(DECLARED) == 1
    path = tmp_path / "axk1.py"
    path.write_text(
        convert(source_path("axk1"), text=text.replace(DECLARED, AGAIN)).text
    )
    source = class_of_module(MODULE, "AXK1ForCausalLM")
    folder = make_subject(source, None, tmp_path / "checkpoint").model_dir
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    norms = {n: w for n, w in weights.items() if "post_mlp_layernorm" in n}
    assert norms and not any(".0." in name for name in norms)
    name, weight = next(iter(norms.items()))
    dense = name.replace(f".{name.split('.')[2]}.", ".0.")
    save_file({**weights, dense: torch.full_like(weight, 7)}, file, {"format": "pt"})
    llm = LLM(path, folder, device="cpu")
    assert not llm.weight_report.uninitialised and not llm.weight_report.unused
    assert llm.generate([[1, 2, 3]], SamplingParams(max_tokens=1))
