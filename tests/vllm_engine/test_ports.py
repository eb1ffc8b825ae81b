"""Port files in vLLM's registry: the same bytes here and in every new process."""

import subprocess
import sys
from pathlib import Path

import pytest

from porter.vllm_engine.environment import require_vllm
from porter.vllm_engine.ports import load_module, registered
from tests.vllm_engine.marks import WITH_VLLM


def test_a_module_is_named_after_its_content(tmp_path: Path) -> None:
    port = tmp_path / "wagtail.py"
    port.write_text("X = 1\n")
    first = load_module(port)
    assert load_module(port) is first and sys.modules[first.__name__] is first
    port.write_text("X = 2\n")
    assert load_module(port).X == 2 and first.X == 1


def test_a_module_that_fails_is_not_kept(tmp_path: Path) -> None:
    port = tmp_path / "dipper.py"
    port.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_module(port)
    assert not any(name.startswith("porter_port_dipper") for name in sys.modules)


NEW_PROCESS = """
from vllm.plugins import load_general_plugins
from vllm import ModelRegistry
load_general_plugins()
print(ModelRegistry.models["LlamaForCausalLM"].model_cls.__module__)
"""


class TestRegistry:
    pytestmark = WITH_VLLM

    def test_new_processes_have_the_port_and_the_end_restores(
        self, tmp_path: Path, rope_port: Path
    ) -> None:
        from vllm import ModelRegistry

        require_vllm()
        port = tmp_path / "wagtail.py"
        port.write_text(rope_port.read_text().replace("Rope", "Llama"))
        before = ModelRegistry.models["LlamaForCausalLM"]
        with registered({"LlamaForCausalLM": port}):
            done = subprocess.run(
                [sys.executable, "-c", NEW_PROCESS],
                capture_output=True,
                text=True,
                cwd=tmp_path,
            )
            here = ModelRegistry.models["LlamaForCausalLM"]
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == load_module(port).__name__
        assert here is not before
        assert ModelRegistry.models["LlamaForCausalLM"] is before
