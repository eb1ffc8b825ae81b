"""verify must pass what is equal, and fail what is wrong in one place and say where."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from porter.gap import UsageError
from porter.verify.verification import Subject, make_subject, verify_subject
from tests.verify.engines import MirrorEngine, Weights


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    return make_subject(LlamaForCausalLM, None, folder)


def engines(model: Any, weights: Weights | None = None) -> Any:
    def make_engine(**options: Any) -> MirrorEngine:
        return MirrorEngine(model, weights, **options)

    return make_engine


def test_the_model_itself_passes(subject: Subject) -> None:
    result = verify_subject(subject, engines(subject.reference))
    assert result.passed and not result.failures
    assert result.logits_rel_rmse == 0.0
    assert result.tokens_equal == [True] * 3
    assert result.logprobs_close and not result.ties
    assert result.first_divergence is None
    assert result.invariances == dict.fromkeys(
        ("mixed_batch", "staggered", "chunked_prefill", "tp2", "pp2"), True
    )


def perturb_weight(model: Any) -> str:
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[0, 0] += 1.0
    return "model.layers.2.mlp.up_proj"


def shift_norm(model: Any) -> str:
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight += 0.01
    return "model.layers.1.input_layernorm"


def change_scale(model: Any) -> str:
    model.model.layers[0].self_attn.scaling *= 1.01
    # The output projection is the first to differ, and was given other values already.
    return "model.layers.0.self_attn"


def change_theta(model: Any) -> str:
    model.model.rotary_emb.inv_freq *= 1.001
    return "model.layers.0.self_attn"


def change_epsilon(model: Any) -> str:
    model.model.norm.variance_epsilon = 1e-6
    return "model.norm"


def forget_a_bias_like_term(model: Any) -> str:
    original = model.lm_head.forward
    model.lm_head.forward = lambda x: original(x) + 0.01
    return "lm_head"


@pytest.mark.parametrize(
    "fault",
    [
        perturb_weight,
        shift_norm,
        change_scale,
        change_theta,
        change_epsilon,
        forget_a_bias_like_term,
    ],
)
def test_one_fault_fails_and_is_found(subject: Subject, fault: Any) -> None:
    model = copy.deepcopy(subject.reference)
    where = fault(model)
    result = verify_subject(subject, engines(model))
    assert not result.passed
    assert result.logits_rel_rmse > 1e-4
    assert result.first_divergence == where
    assert result.failures


def test_nan_logits_fail(subject: Subject) -> None:
    model = copy.deepcopy(subject.reference)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    result = verify_subject(subject, engines(model))
    assert not result.passed
    assert result.to_json()["logits_rel_rmse"] is None


def test_unaccounted_weights_fail(subject: Subject) -> None:
    for weights in (Weights(unused=["a"]), Weights(uninitialised=["b"])):
        result = verify_subject(subject, engines(subject.reference, weights))
        assert not result.passed
        assert result.unused_weights == weights.unused
        assert result.uninitialised_weights == weights.uninitialised


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_num_batched_tokens": 13}, "chunked_prefill"),
        ({"max_num_seqs": 2}, "staggered"),
        ({"tensor_parallel_size": 2}, "tp2"),
        ({"pipeline_parallel_size": 2}, "pp2"),
    ],
)
def test_a_fault_of_one_schedule_fails(
    subject: Subject, options: dict[str, int], name: str
) -> None:
    wrong = copy.deepcopy(subject.reference)
    shift_norm(wrong)

    def make_engine(**given: Any) -> MirrorEngine:
        faulty = options.items() <= given.items()
        return MirrorEngine(wrong if faulty else subject.reference, **given)

    result = verify_subject(subject, make_engine)
    assert not result.passed
    assert [key for key, held in result.invariances.items() if not held] == [name]


def test_a_model_that_cannot_be_split_has_no_tp2(subject: Subject) -> None:
    def make_engine(**given: Any) -> MirrorEngine:
        if given.get("tensor_parallel_size", 1) > 1:
            raise UsageError("3 heads don't divide by 2")
        return MirrorEngine(subject.reference, **given)

    result = verify_subject(subject, make_engine)
    assert result.passed
    assert "tp2" not in result.invariances
    with pytest.raises(UsageError, match="don't divide"):
        verify_subject(subject, make_engine, tp=2)


def test_json_has_the_documented_keys(subject: Subject) -> None:
    record = json.loads(
        verify_subject(
            subject, engines(subject.reference), invariances=False
        ).json_text()
    )
    documented = (
        "version passed engine tp pp dtype logits_rel_rmse tokens_equal "
        "logprobs_close first_divergence unused_weights uninitialised_weights "
        "fused seconds"
    )
    assert list(record)[:14] == documented.split()
    assert record["version"] == 1
    assert record["engine"] == "porter" and record["dtype"] == "float32"


def test_checkpoint_tells_of_its_making(subject: Subject) -> None:
    checkpoint = subject.checkpoint
    assert checkpoint is not None and checkpoint.margin >= 3e-4
    assert checkpoint.distinct >= 8
    assert (Path(checkpoint.folder) / "model.safetensors").is_file()
