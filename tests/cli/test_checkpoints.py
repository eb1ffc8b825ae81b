"""`porter run` and `verify` on a checkpoint of a fixture model, whole and broken."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from porter.cli import main
from tests.cli.conftest import Outcome, Porter, copy_of

IDS = ["--prompt-ids", "5", "6", "7"]
WEIGHTS = "model.safetensors"
A_WEIGHT = "model.blocks.1.ffn.down.weight"
JSON_KEYS = {
    "passed",
    "engine",
    "tp",
    "pp",
    "dtype",
    "logits_rel_rmse",
    "tokens_equal",
    "logprobs_close",
    "first_divergence",
    "unused_weights",
    "uninitialised_weights",
    "fused",
    "seconds",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with heron.py, a port, and heron/, its model with random weights."""
    folder = tmp_path_factory.mktemp("made")
    model_dir = copy_of("heron", folder / "heron")
    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    kept = (model_dir / "config.json").read_text()
    model.save_pretrained(model_dir)
    (model_dir / "config.json").write_text(kept)
    port = folder / "heron.py"
    assert main(["convert", str(model_dir), "-o", str(port)]) == 0
    return folder


@pytest.fixture
def folder(made: Path, porter: Porter) -> Path:
    """A copy of `made` in the current folder, to break."""
    shutil.copytree(made, Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


def run(porter: Porter, *options: object) -> Outcome:
    flags = (*IDS, "--max-tokens", 4, "--trust-remote-code")
    return porter("run", "heron.py", "--model", "heron", *flags, *options)


def test_run_prints_the_new_tokens(folder: Path, porter: Porter) -> None:
    outcome = run(porter)
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    assert len(line.split()) == 4
    assert all(0 <= int(token) < 1000 for token in line.split())


def test_run_gives_one_line_a_prompt(folder: Path, porter: Porter) -> None:
    alone = run(porter)
    both = run(porter, "--prompt-ids", "9,8")
    assert both.code == 0, both.err
    assert len(both.out.splitlines()) == 2
    assert both.out.splitlines()[0] == alone.out.strip()


def test_tensor_parallel_ranks_say_the_same(folder: Path, porter: Porter) -> None:
    cpu = ("--device", "cpu")  # a machine may have one GPU
    alone, two = run(porter, *cpu), run(porter, *cpu, "--tp", 2)
    assert two.code == 0, two.err
    assert two.out == alone.out


def test_verify_passes_and_says_how(folder: Path, porter: Porter) -> None:
    outcome = porter(
        "verify", "heron.py", "--model", "heron", "--trust-remote-code", "--json", "-"
    )
    assert outcome.code == 0, outcome.out + outcome.err
    facts = json.loads(outcome.out)
    assert set(facts) >= JSON_KEYS | {"version"}
    assert facts["passed"] is True
    assert facts["logits_rel_rmse"] <= 1e-4
    assert all(facts["tokens_equal"])
    assert facts["unused_weights"] == facts["uninitialised_weights"] == []


def test_verify_makes_its_own_checkpoint(folder: Path, porter: Porter) -> None:
    outcome = porter("verify", "heron.py", "--trust-remote-code", "--json", "v.json")
    assert outcome.code == 0, outcome.out + outcome.err
    assert json.loads(Path("v.json").read_text())["passed"] is True
    assert outcome.out.endswith("heron.py: passes\n")
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_wrong_port_differs(folder: Path, porter: Porter) -> None:
    port = Path("heron.py")
    text = port.read_text()
    assert "self.head_dim**-0.5" in text
    port.write_text(text.replace("self.head_dim**-0.5", "self.head_dim**-0.25"))
    outcome = porter(
        "verify", port, "--model", "heron", "--trust-remote-code", "--json", "v.json"
    )
    assert outcome.code == 1
    facts = json.loads(Path("v.json").read_text())
    assert facts["passed"] is False
    assert facts["first_divergence"] is not None
    assert "DIFFERS" in outcome.out


def drop_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "heron" / WEIGHTS)
    del tensors[A_WEIGHT]
    save_file(tensors, folder / "heron" / WEIGHTS)


def shorten_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "heron" / WEIGHTS)
    tensors[A_WEIGHT] = tensors[A_WEIGHT][:, :-1].contiguous()
    save_file(tensors, folder / "heron" / WEIGHTS)


def remove_weights(folder: Path) -> None:
    (folder / "heron" / WEIGHTS).unlink()


def damage_weights(folder: Path) -> None:
    path = folder / "heron" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])


def name_a_missing_shard(folder: Path) -> None:
    remove_weights(folder)
    index = {
        "metadata": {},
        "weight_map": {A_WEIGHT: "model-00001-of-00002.safetensors"},
    }
    (folder / "heron/model.safetensors.index.json").write_text(json.dumps(index))


def pickle_weights(folder: Path) -> None:
    tensors = load_file(folder / "heron" / WEIGHTS)
    remove_weights(folder)
    torch.save(tensors, folder / "heron/pytorch_model.bin")


def break_config(folder: Path) -> None:
    (folder / "heron/config.json").write_text("{")


def break_port(folder: Path) -> None:
    (folder / "heron.py").write_text("def f(:\n")


BROKEN = {
    drop_a_weight: [A_WEIGHT],
    shorten_a_weight: [A_WEIGHT],
    remove_weights: ["heron"],
    damage_weights: ["heron", "safetensors"],
    name_a_missing_shard: ["model-00001-of-00002.safetensors"],
    pickle_weights: ["--allow-pickle"],
    break_config: ["heron/config.json"],
    break_port: ["heron.py"],
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("command", ["run", "verify"])
def test_broken_input_is_one_message(
    damage, command: str, folder: Path, porter: Porter
) -> None:
    damage(folder)
    if command == "run":
        outcome = run(porter)
    else:
        outcome = porter(
            "verify", "heron.py", "--model", "heron", "--trust-remote-code"
        )
    assert_one_message(outcome, *BROKEN[damage])


def test_pickle_is_read_where_it_is_allowed(folder: Path, porter: Porter) -> None:
    before = run(porter)
    pickle_weights(folder)
    outcome = run(porter, "--allow-pickle")
    assert outcome.code == 0, outcome.err
    assert outcome.out == before.out


@pytest.mark.parametrize("command", ["run", "verify"])
def test_tp_that_does_not_divide(command: str, folder: Path, porter: Porter) -> None:
    if command == "run":
        outcome = run(porter, "--device", "cpu", "--tp", 3)
    else:
        flags = ("--model", "heron", "--trust-remote-code", "--tp", 3)
        outcome = porter("verify", "heron.py", *flags)
    assert_one_message(outcome, "3")


@pytest.mark.parametrize("command", ["run", "verify"])
def test_foreign_code_asks_for_trust(
    command: str, folder: Path, porter: Porter
) -> None:
    for name in ("modeling_heron.py", "configuration_heron.py"):
        with (folder / "heron" / name).open("a") as file:
            file.write("\nopen('was-run', 'w').close()\n")
    arguments = [command, "heron.py", "--model", "heron"]
    outcome = porter(*arguments, *(IDS if command == "run" else []))
    assert_one_message(outcome, "--trust-remote-code")
    assert not Path("was-run").exists()


def test_token_outside_the_vocabulary(folder: Path, porter: Porter) -> None:
    assert_one_message(run(porter, "--prompt-ids", "1000"), "1000")


def test_file_without_a_model_is_no_port(folder: Path, porter: Porter) -> None:
    Path("heron.py").write_text("x = 1\n")
    assert_one_message(run(porter), "heron.py")


def assert_one_message(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.out + outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("porter: ")
    for word in words:
        assert word in outcome.err
