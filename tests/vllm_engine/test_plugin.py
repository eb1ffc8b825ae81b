"""`porter plugin`: installed where there is no porter, vLLM runs the port through it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from porter.cli import main
from porter.runtime.llm import LLM, SamplingParams
from porter.vllm_engine.environment import SETTINGS
from tests.vllm_engine.marks import WITH_VLLM

PROMPTS = [[5, 17, 40], [9, 8, 7, 6, 5, 4]]

# Run in a process that has vLLM and the installed package, and nothing of porter's.
GENERATE = """
import importlib.util, json, sys
assert importlib.util.find_spec("porter") is None
from vllm import LLM, SamplingParams
from vllm.plugins import load_general_plugins
load_general_plugins()
import my_ports
my_ports.register()  # again: nothing changes
llm = LLM(sys.argv[1], skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
          max_model_len=64, kv_cache_memory_bytes=1 << 26,
          compilation_config={"custom_ops": ["none"]})
kind = llm.apply_model(type)[0]
asked = [{"prompt_token_ids": p} for p in json.loads(sys.argv[2])]
params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
tokens = [list(o.outputs[0].token_ids) for o in llm.generate(asked, params)]
print("ANSWER" + json.dumps([f"{kind.__module__}:{kind.__name__}", tokens]))
"""


def written(port: Path, folder: Path) -> Path:
    assert main(["plugin", str(port), "-o", str(folder)]) == 0
    return folder


def test_the_package(rope_port: Path, tmp_path: Path) -> None:
    folder = written(rope_port, tmp_path / "my-ports")
    package = folder / "my_ports"
    assert (package / "rope_decoder.py").read_bytes() == rope_port.read_bytes()
    said = (package / "__init__.py").read_text()
    assert '"RopeForCausalLM": "my_ports.rope_decoder:RopeForCausalLM"' in said
    project = (folder / "pyproject.toml").read_text()
    assert '[project.entry-points."vllm.general_plugins"]' in project
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(before) == 3
    written(rope_port, folder)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@WITH_VLLM[0]
@WITH_VLLM[1]
def test_vllm_runs_it_without_porter(
    rope_port: Path, rope_folder: Path, tmp_path: Path
) -> None:
    folder = written(rope_port, tmp_path / "my_ports")
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps",
               "--no-build-isolation", "--target", str(target), str(folder)]  # fmt: skip
    subprocess.run(install, check=True)
    # A new environment sees vLLM by its path; porter, installed for editing, it doesn't.
    venv.create(tmp_path / "fresh", with_pip=False)
    places = [str(target), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [
            tmp_path / "fresh/bin/python",
            "-c",
            GENERATE,
            rope_folder,
            json.dumps(PROMPTS),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **SETTINGS, "PYTHONPATH": os.pathsep.join(places)},
    )
    answers = [x[6:] for x in done.stdout.splitlines() if x.startswith("ANSWER")]
    assert answers, done.stderr
    kind, tokens = json.loads(answers[0])
    assert kind == "my_ports.rope_decoder:RopeForCausalLM"
    with LLM(rope_port, rope_folder) as llm:
        outputs = llm.generate(PROMPTS, SamplingParams(max_tokens=8, ignore_eos=True))
        assert tokens == [list(output.token_ids) for output in outputs]
