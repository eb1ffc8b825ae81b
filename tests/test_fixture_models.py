"""The fixture models are models: transformers runs, saves and loads them."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.sources import FIXTURES, ROOT


@pytest.mark.parametrize("name", FIXTURES)
def test_transformers_runs_it(name: str, tmp_path: Path) -> None:
    folder = ROOT / "fixtures/models" / name
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, trust_remote_code=True, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    prompt = torch.randint(3, config.vocab_size, (1, 12))
    with torch.no_grad():
        whole = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=6,
            min_new_tokens=6,
        )
        logits = model(whole).logits
    # Decoding through the cache says what one pass over everything says.
    assert torch.equal(logits[0, 11:-1].argmax(-1), whole[0, 12:])

    # A checkpoint brings all of it back, what isn't stored in it too.
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(again(whole).logits, logits)
