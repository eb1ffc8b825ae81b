"""Each config of the matrix must be a different model, or it proves nothing more."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from porter.verify.checkpoint import randomise
from porter.verify.reference import class_of_module
from porter.verify.tiny_config import tiny_config
from porter.zoo.listing import find
from tests.six.configs import CONFIGS

# The same numbers as the default's below the length at which it starts to scale.
LIKE_THE_DEFAULT = {"rope dynamic"}


def logits_of(model_class: Any, overrides: dict[str, Any]) -> torch.Tensor:
    config = tiny_config(model_class.config_class, overrides)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(config).eval()
    randomise(model, 0)
    with torch.inference_mode():
        return model(torch.arange(3, 100).unsqueeze(0)).logits


def different_pairs(logits: dict[str, torch.Tensor]) -> Iterator[tuple[str, bool]]:
    names = [name for name in logits if name not in LIKE_THE_DEFAULT]
    for i, one in enumerate(names):
        for other in names[:i]:
            scale = logits[one].square().mean().sqrt()
            error = (logits[one] - logits[other]).square().mean().sqrt()
            yield f"{one} / {other}", bool(error > 1e-3 * scale)


@pytest.mark.parametrize("model", CONFIGS)
def test_no_two_configs_compute_the_same(model: str) -> None:
    (specimen,) = find([model])
    model_class = class_of_module(specimen.module, specimen.architecture)
    logits = {n: logits_of(model_class, c) for n, c in CONFIGS[model].items()}
    assert [pair for pair, differs in different_pairs(logits) if not differs] == []
