"""Ports for each release: what the release has of what they use, and that they run."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from porter.convert import Port, convert
from porter.gap import CannotRun, Refused
from porter.profiles import RELEASES, profile_of
from porter.profiles.release import facts, faults
from porter.verify import verify
from tests.profiles.release_0_7 import CACHES, PassedAttention, install
from tests.profiles.test_facts import MODEL
from tests.sources import PORTED, ROOT, SIX, fixture_file

OLD = tuple(r for r in RELEASES if r != "0.32")


def port_of(name: str, release: str) -> Port:
    source = fixture_file(name) if name in PORTED else name
    return convert(source, profile=release)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", [*PORTED, *SIX])
def test_the_release_has_what_the_port_uses(
    name: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    port = port_of(name, release)
    assert faults(port.text, profile_of(release)) == []
    again = "" if release == "0.32" else f" --vllm {release}"
    assert re.search(rf"^# Regenerate: porter convert \S+{again}$", port.text, re.M)


@pytest.mark.parametrize("release", RELEASES)
def test_methods_take_what_the_releases_own_model_takes(release: str) -> None:
    """The release's handwritten model of the same architecture has the contract's say."""
    tree = ast.parse(convert("llama", profile=release).text)
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    own = facts(release)[MODEL]
    compared = set()
    for name in ("LlamaModel", "LlamaForCausalLM"):
        for method in classes[name].body:
            if not isinstance(method, ast.FunctionDef) or method.name not in own[name]:
                continue
            taken = [a.arg for a in method.args.args[1:]]
            theirs = [p.split("=")[0] for p in own[name][method.name].split(", ")]
            # models take one argument for more than text: a port is of text alone
            theirs = [t for t in theirs if not t.startswith("*")]
            assert taken == theirs, (name, method.name)
            compared.add((name, method.name))
    embed = profile_of(release).embed
    expected = {("LlamaModel", embed), ("LlamaModel", "forward")}
    for each in (embed, "forward", "compute_logits", "load_weights"):
        expected.add(("LlamaForCausalLM", each))
    assert expected <= compared
    assert (("LlamaForCausalLM", "sample") in compared) == (release == "0.7")


@pytest.mark.parametrize(
    ("release", "old", "new", "said"),
    [
        ("0.32", "import get_rope", "import get_ropes", "no vllm.*get_ropes"),
        ("0.32", "rope_parameters=", "rope_scaling=", "get_rope: .*rope_scaling"),
        ("0.7", "rope_scaling=", "rope_parameters=", "get_rope: .*rope_parameters"),
        ("0.7", "self.attn(q, k, v, kv_cache, attn_metadata)", "self.attn(q, k, v)",
         "Attention.forward: missing .*kv_cache"),
        ("0.32", "self.attn(q, k, v)", "self.attn(q, k, v, k, v, q)",
         "Attention.forward: too many"),
        ("0.26", "skip_prefixes", "skips", "AutoWeightsLoader: .*skips"),
        ("0.26", "head.tie_weights(self.model.embed_tokens)", "head.tie_weights()",
         "ParallelLMHead.tie_weights: missing"),
    ],
)  # fmt: skip
def test_what_a_release_lacks_is_said(
    release: str, old: str, new: str, said: str
) -> None:
    text = convert("llama", profile=release).text
    assert old in text
    found = faults(text.replace(old, new), profile_of(release))
    assert re.search(said, found[0])


def test_a_port_of_one_release_is_none_of_another() -> None:
    text = convert("llama", profile="0.7").text
    assert "it has no vllm.attention.Attention" in faults(text, profile_of("0.32"))
    text = convert("llama").text
    assert any("get_act_and_mul_fn" in f for f in faults(text, profile_of("0.7")))


def test_what_comes_behind_the_logits_is_refused_for_0_7(tmp_path: Path) -> None:
    """0.7 applies the sampler's processors with the head: what follows comes too late."""
    source = (ROOT / fixture_file("plover")).read_text()
    changed = re.sub(r"logits = (self\.\w+\(.*\))", r"logits = \1.abs()", source)
    assert changed != source
    folder = ROOT / "fixtures/models/plover"
    (tmp_path / "modeling_plover.py").write_text(changed)
    config = "configuration_plover.py"
    (tmp_path / config).write_text((folder / config).read_text())
    path = tmp_path / "modeling_plover.py"
    assert "abs" in convert(path).text
    with pytest.raises(Refused, match="computed on after the head"):
        convert(path, profile="0.7")


# -- the bundled runtime


@pytest.mark.parametrize("name", [*PORTED, "llama"])
def test_a_0_26_port_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "port.py"
    path.write_text(port_of(name, "0.26").text)
    result = verify(path, invariances=False, max_tokens=6, trust_remote_code=True)
    assert result.passed, result.failures


@pytest.mark.parametrize("name", [*PORTED, "llama", "gpt_neox", "gemma2"])
def test_a_0_7_port_computes_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    port = port_of(name, "0.7")
    path = tmp_path / "port.py"
    path.write_text(install(monkeypatch, port.text, port.architecture))
    result = verify(path, invariances=False, max_tokens=6, trust_remote_code=True)
    assert result.passed, result.failures
    for layer, cache in PassedAttention.given:  # each layer was given its own
        number = int(next(part for part in layer.split(".") if part.isdigit()))
        assert cache is CACHES[number]
    assert PassedAttention.given


def test_a_0_7_port_is_for_another_engine(tmp_path: Path) -> None:
    path = tmp_path / "port.py"
    path.write_text(convert("llama", profile="0.7").text)
    with pytest.raises(CannotRun, match="is for vLLM 0.7; .* those for 0.26 and 0.32"):
        verify(path)


def test_the_older_loader_skips_a_stored_head_only_where_it_is_tied(
    tmp_path: Path,
) -> None:
    """A checkpoint may hold a head beside the embedding that it is tied to."""
    text = convert("llama", profile="0.26").text
    path = tmp_path / "port.py"
    for tied in (True, False):
        path.write_text(text)
        result = verify(
            path,
            config_overrides={"tie_word_embeddings": tied},
            invariances=False,
            max_tokens=4,
        )
        assert result.passed, result.failures


def test_profiles_have_a_docstring_for_each_field() -> None:
    from porter.profiles.profile import Profile

    said = inspect.getdoc(Profile) or ""
    for name in inspect.signature(Profile).parameters:
        assert re.search(rf"\b{name}\b", said), name
