"""The facts of a release are what `porter.profiles.extract` reads from the release.

Where its wheel is: PORTER_VLLM_WHEEL_0_7, PORTER_VLLM_WHEEL_0_26, PORTER_VLLM_WHEEL_0_32
name the wheel, or a folder that holds `vllm`. 0.32 is also compared with an installed vLLM.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from porter.profiles import RELEASES
from porter.profiles.extract import Release, facts_of, wanted
from porter.profiles.release import facts

# The release's own model whose methods those of a port are held against.
MODEL = "vllm.model_executor.models.llama"
CONTRACT = [f"{MODEL}:LlamaForCausalLM", f"{MODEL}:LlamaModel"]

PACKAGE = """
from vllm.layers.linear import Linear as Linear
from .layers import *
"""
LAYERS = """
from .linear import Base
class Norm(Base):
    def forward_native(self, x: Tensor, residual: Tensor | None = None) -> Tensor: ...
@dataclass
class Box:
    tensors: dict
    size: int = 3
"""
LINEAR = """
class Base:
    def __init__(self, size: int, *, eps: float = 1e-6, dtype=torch.float32, **more): ...
class Linear(Base):
    def __init__(self, a, b: int = 2, *rest): ...
def helper(x, /, y=None): ...
"""


@pytest.mark.parametrize("release", RELEASES)
def test_facts_are_the_releases(release: str) -> None:
    named = os.environ.get(f"PORTER_VLLM_WHEEL_{release.replace('.', '_')}")
    spec = importlib.util.find_spec("vllm") if release == "0.32" else None
    if named is None and spec is not None and spec.origin:
        named = str(Path(spec.origin).parent.parent)
    if named is None:
        pytest.skip(f"vLLM {release} isn't here (PORTER_VLLM_WHEEL_... names it)")
    assert facts_of(Release(Path(named)), wanted(release, CONTRACT)) == facts(release)


def test_reading(tmp_path: Path) -> None:
    files = {"__init__": PACKAGE, "layers/__init__": LAYERS, "layers/linear": LINEAR}
    for name, text in files.items():
        path = tmp_path / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = {
        "vllm": ["Linear", "Norm", "Missing"],
        "vllm.layers": ["Box"],
        "vllm.layers.linear": ["helper"],
    }
    assert facts_of(Release(tmp_path), names) == {
        "vllm": {
            "Linear": {"call": "a, b=2, *rest"},
            "Norm": {
                "call": "size, *, eps=1e-06, dtype=..., **more",
                "forward_native": "x, residual=None",
            },
        },
        "vllm.layers": {"Box": {"call": "tensors, size=..."}},
        "vllm.layers.linear": {"helper": {"call": "x, /, y=None"}},
    }
