"""The engine against plain-torch models: prefill, decode, chunks, preemption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from porter.gap import CannotRun, UsageError
from porter.runtime.llm import LLM, SamplingParams
from tests.runtime.reference import (
    LEARNED_CONFIG,
    PORTS,
    ROPE_CONFIG,
    default_cos_sin,
    learned_logits,
    learned_weights,
    rel_rmse,
    rope_logits,
    rope_weights,
    write_checkpoint,
)

ROPE, LEARNED = PORTS / "rope_decoder.py", PORTS / "learned_decoder.py"
PROMPTS = [[(7 * i + n) % 131 for i in range(n)] for n in (5, 33, 1, 70)]
WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "in chunks": {"max_num_batched_tokens": 16},
    "in chunks of odd size over small blocks": {
        "max_num_batched_tokens": 7,
        "block_size": 3,
    },
    "one after another": {"max_num_seqs": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True},
                                     {"attention_bias": True, "mlp_bias": True},
                                     {"num_key_value_heads": 4},
                                     {"num_key_value_heads": 1}], ids=str)  # fmt: skip
def test_prefill_logits_of_a_rope_model(
    way: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = {**ROPE_CONFIG, **changes}
    weights = rope_weights(config)
    write_checkpoint(tmp_path, config, weights)
    llm = LLM(ROPE, tmp_path, **WAYS[way])
    for prompt, logits in zip(PROMPTS, llm.prefill_logits(PROMPTS), strict=True):
        expected = rope_logits(config, weights, prompt, default_cos_sin(config))
        assert logits.dtype == torch.float32 and logits.shape == expected.shape
        assert rel_rmse(logits, expected) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_prefill_logits_of_a_learned_position_model(
    way: str, learned_model: Path
) -> None:
    weights = learned_weights(LEARNED_CONFIG)
    llm = LLM(LEARNED, learned_model, **WAYS[way])
    for prompt, logits in zip(PROMPTS, llm.prefill_logits(PROMPTS), strict=True):
        expected = learned_logits(LEARNED_CONFIG, weights, prompt)
        assert rel_rmse(logits, expected) < 1e-5


@pytest.mark.parametrize("way", [*WAYS, "with little cache"])
def test_decoding_follows_the_reference(
    way: str, rope_model: Path, learned_model: Path
) -> None:
    options = WAYS.get(way, {"num_blocks": 30, "block_size": 4})
    for port, folder, logits_of in (
        (ROPE, rope_model, _rope_logits_of),
        (LEARNED, learned_model, _learned_logits_of),
    ):
        outputs = LLM(port, folder, **options).generate(
            PROMPTS, SamplingParams(max_tokens=12)
        )
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            likeliest = logits_of(prompt + output.token_ids).argmax(-1).tolist()
            assert output.token_ids == likeliest[len(prompt) - 1 : -1]
        if way == "with little cache":
            assert sum(output.preemptions for output in outputs) > 0


def _rope_logits_of(ids: list[int]) -> torch.Tensor:
    weights = rope_weights(ROPE_CONFIG)
    return rope_logits(ROPE_CONFIG, weights, ids, default_cos_sin(ROPE_CONFIG))


def _learned_logits_of(ids: list[int]) -> torch.Tensor:
    return learned_logits(LEARNED_CONFIG, learned_weights(LEARNED_CONFIG), ids)


def test_a_request_is_the_same_alone_and_in_company(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model)
    params = SamplingParams(max_tokens=20, temperature=0.8, seed=3)
    together = llm.generate(PROMPTS, params)
    alone = [llm.generate([prompt], params)[0] for prompt in PROMPTS]
    assert [o.token_ids for o in together] == [o.token_ids for o in alone]


def test_logprobs_are_those_of_the_model(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model)
    output = llm.generate(PROMPTS[:1], SamplingParams(max_tokens=3, logprobs=4))[0]
    assert output.logprobs is not None and len(output.logprobs) == 3
    ids = PROMPTS[0] + output.token_ids
    expected = _rope_logits_of(ids).log_softmax(-1)
    for i, logprobs in enumerate(output.logprobs):
        row = expected[len(PROMPTS[0]) - 1 + i]
        assert set(logprobs) == set(row.topk(4).indices.tolist())
        for token, value in logprobs.items():
            assert value == pytest.approx(float(row[token]), abs=1e-5)


def test_stop_token_ends_a_request(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model)
    free = llm.generate(PROMPTS[:1], SamplingParams(max_tokens=24))[0].token_ids
    stop = free[20]
    at = free.index(stop)
    params = SamplingParams(max_tokens=24, ignore_eos=False, stop_token_ids=(stop,))
    assert llm.generate(PROMPTS[:1], params)[0].token_ids == free[: at + 1]


def test_capture_gives_what_modules_return(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model, max_num_batched_tokens=4)
    paths = ["model.embed_tokens", "model.layers.1.mlp", "model.norm"]
    captured = llm.capture(PROMPTS[1], paths)
    assert list(captured) == ["model.embed_tokens", "model.layers.1.mlp", "model.norm"]
    table = rope_weights(ROPE_CONFIG)["model.embed_tokens.weight"]
    assert torch.equal(captured["model.embed_tokens"], table[PROMPTS[1]])
    head = rope_weights(ROPE_CONFIG)["lm_head.weight"]
    logits = llm.prefill_logits(PROMPTS[1:2])[0]
    assert rel_rmse(captured["model.norm"] @ head.T, logits) < 1e-5
    assert set(paths) < set(llm.capture(PROMPTS[1]))
    with pytest.raises(UsageError, match="no module 'model.nothing'"):
        llm.capture(PROMPTS[1], ["model.nothing"])


def test_fused_modules_are_counted(rope_model: Path, learned_model: Path) -> None:
    assert LLM(ROPE, rope_model).fused_modules() == {
        "qkv": 3,
        "gate_up": 3,
        "act_and_mul": 3,
        "rms_norm": 7,
        "rope": 3,
        "attention": 3,
    }
    counts = LLM(LEARNED, learned_model).fused_modules()
    assert counts == {"qkv": 4, "layer_norm": 9, "attention": 4}


def test_bfloat16_runs(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model, dtype="bfloat16")
    expected = _rope_logits_of(PROMPTS[1])
    assert rel_rmse(llm.prefill_logits(PROMPTS[1:2])[0], expected) < 0.05


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "no tokens"),
        ([1] * 250, {"max_tokens": 10}, "exceeds the model's 256 tokens"),
        ([1, 199], {}, "token 199 isn't in the vocabulary of 199"),
        ([1, -1], {}, "token -1 isn't in"),
    ],
)
def test_prompts_that_cannot_run(
    prompt: list[int], params: dict[str, Any], message: str, rope_model: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        LLM(ROPE, rope_model).generate([prompt], SamplingParams(**params))


def test_a_cache_too_small_for_a_prompt(rope_model: Path) -> None:
    llm = LLM(ROPE, rope_model, num_blocks=2, block_size=16)
    assert llm.generate([[1] * 20], SamplingParams(max_tokens=13))
    with pytest.raises(UsageError, match="needs more than the cache's 2 blocks of 16"):
        llm.generate([[1] * 20], SamplingParams(max_tokens=14))


def test_a_port_that_fails_is_told_with_its_line(
    rope_model: Path, tmp_path: Path
) -> None:
    port = tmp_path / "port.py"
    text = ROPE.read_text().replace(
        "        return self.mlp(hidden_states), residual",
        "        return self.mlp(hidden_states[:, 1:]), residual",
    )
    port.write_text(text)
    line = text[: text.index("[:, 1:]")].count("\n") + 1
    with pytest.raises(CannotRun, match="port.py:.*the port fails: RuntimeError"):
        LLM(port, rope_model).prefill_logits([[1, 2]])
    port.write_text(text.replace("self.mlp(hidden_states[:, 1:])", "1 / 0"))
    with pytest.raises(CannotRun, match=f"port.py:{line}: .*ZeroDivisionError"):
        LLM(port, rope_model).prefill_logits([[1, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"num_blocks": 0}, "num_blocks must be at least 1"),
        (
            {"tensor_parallel_size": 3, "device": "cpu"},
            "4 attention heads don't divide by .* 3",
        ),
        ({"architecture": "Nothing"}, None),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], message: str | None, rope_model: Path
) -> None:
    if message is None:  # the port has one model class: it is that
        assert LLM(ROPE, rope_model, **options).fused_modules()["qkv"] == 3
        return
    with pytest.raises(UsageError, match=message):
        LLM(ROPE, rope_model, **options)


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_k": -1},
        {"logprobs": -1},
    ],
)
def test_sampling_params_that_make_no_sense(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(**params)
