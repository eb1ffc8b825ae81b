"""Positions: rotary embedding, its frequencies, what it is applied to; OPT's table."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="rope")
APPLY = "apply_rotary_pos_emb(query_states, key_states, cos, sin)"
ROPED = "query_states, key_states = " + APPLY
ROTATED = "torch.cat((-x2, x1), dim=-1)"
FIRST = "x[..., : x.shape[-1] // 2]"
SECOND = "x[..., x.shape[-1] // 2 :]"
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}

CASES = (
    case(
        "rope-turns-other-way",
        "llama",
        "rotate_half",
        ((ROTATED, "torch.cat((x2, -x1), dim=-1)"),),
    ),
    case(
        "rope-sign-q-only",
        "qwen3",
        "apply_rotary_pos_emb",
        (("(q * cos) + (", "(q * cos) - ("),),
    ),
    case(
        "rope-no-minus",
        "olmo2",
        "rotate_half",
        ((ROTATED, "torch.cat((x2, x1), dim=-1)"),),
    ),
    case(
        "rope-halves-not-exchanged",
        "llama",
        "rotate_half",
        ((ROTATED, "torch.cat((-x1, x2), dim=-1)"),),
    ),
    case(
        "rope-even-odd-parts",
        "gemma2",
        "rotate_half",
        ((FIRST, "x[..., ::2]"), (SECOND, "x[..., 1::2]")),
    ),
    case(
        "rope-interleaved",
        "llama",
        "rotate_half",
        (
            (FIRST, "x[..., ::2]"),
            (SECOND, "x[..., 1::2]"),
            (ROTATED, "torch.stack((-x2, x1), dim=-1).flatten(-2)"),
        ),
    ),
    case(
        "rope-freqs-interleaved",
        "qwen3",
        "Qwen3RotaryEmbedding.forward",
        (("torch.cat((freqs, freqs), dim=-1)", "freqs.repeat_interleave(2, dim=-1)"),),
    ),
    case(
        "rope-full-not-partial",
        "gpt_neox",
        "GPTNeoXRotaryEmbedding.compute_default_rope_parameters",
        (("int(head_dim * partial_rotary_factor)", "head_dim"),),
    ),
    case(
        "rope-exponent-over-head",
        "gpt_neox",
        "GPTNeoXRotaryEmbedding.compute_default_rope_parameters",
        (("dtype=torch.float) / dim)", "dtype=torch.float) / head_dim)"),),
    ),
    case(
        "rope-tail-turned",
        "gpt_neox",
        "apply_rotary_pos_emb",
        (
            (
                "q_rot, q_pass = q[..., :rotary_dim], q[..., rotary_dim:]",
                "q_pass, q_rot = q[..., :rotary_dim], q[..., rotary_dim:]",
            ),
        ),
    ),
    case(
        "rope-base-twice",
        "llama",
        "LlamaRotaryEmbedding.compute_default_rope_parameters",
        (('["rope_theta"]', '["rope_theta"] * 2.0'),),
    ),
    case(
        "rope-other-exponent",
        "qwen3",
        "Qwen3RotaryEmbedding.compute_default_rope_parameters",
        (("dtype=torch.float) / dim)", "dtype=torch.float) / (dim + 8))"),),
    ),
    case(
        "rope-frequency-shifted",
        "olmo2",
        "Olmo2RotaryEmbedding.compute_default_rope_parameters",
        (("1.0 / (base **", "1.0 / (1.0 + base **"),),
    ),
    case(
        "rope-scaling-squared",
        "llama",
        "LlamaRotaryEmbedding.forward",
        (
            (
                "emb.cos() * self.attention_scaling",
                "emb.cos() * self.attention_scaling**2",
            ),
        ),
        config=YARN,
    ),
    case(
        "rope-scaling-ignored",
        "qwen3",
        "Qwen3RotaryEmbedding.forward",
        (("emb.sin() * self.attention_scaling", "emb.sin()"),),
        config=YARN,
    ),
    case(
        "rope-cos-sin-exchanged",
        "olmo2",
        "Olmo2Attention.forward",
        (("cos, sin = position_embeddings", "sin, cos = position_embeddings"),),
        tp2=True,
    ),
    case(
        "rope-k-only",
        "llama",
        "LlamaAttention.forward",
        ((ROPED, "_, key_states = " + APPLY),),
    ),
    case(
        "rope-v-too",
        "qwen3",
        "Qwen3Attention.forward",
        (
            (
                ROPED,
                ROPED + "\nvalue_states, _ = "
                "apply_rotary_pos_emb(value_states, value_states, cos, sin)",
            ),
        ),
    ),
    case(
        "rope-twice",
        "gemma2",
        "Gemma2Attention.forward",
        ((ROPED, ROPED + "\n" + ROPED),),
    ),
    case(
        "rope-odd-layers-only",
        "olmo2",
        "Olmo2Attention.forward",
        ((ROPED, "if self.layer_idx % 2 == 1:\n    " + ROPED),),
    ),
    case(
        "rope-sine-damped",
        "gemma2",
        "apply_rotary_pos_emb",
        (("(rotate_half(k) * sin)", "(rotate_half(k) * sin * 0.9)"),),
    ),
    case(
        "positions-halved",
        "llama",
        "LlamaRotaryEmbedding.forward",
        (("position_ids[..., None].float()", "position_ids[..., None].float() * 0.5"),),
    ),
    case(
        "positions-squared",
        "gpt_neox",
        "GPTNeoXRotaryEmbedding.forward",
        (
            (
                "position_ids[..., None].float()",
                "position_ids[..., None].float() ** 1.5",
            ),
        ),
    ),
    case(
        "positions-offset-three",
        "opt",
        "OPTLearnedPositionalEmbedding.__init__",
        (("self.offset = 2", "self.offset = 3"),),
    ),
    case(
        "positions-offset-not-added",
        "opt",
        "OPTLearnedPositionalEmbedding.forward",
        (("position_ids + self.offset", "position_ids + 1"),),
    ),
    case(
        "positions-subtracted",
        "opt",
        "OPTDecoder.forward",
        (("inputs_embeds + pos_embeds", "inputs_embeds - pos_embeds"),),
    ),
    case(
        "positions-doubled-index",
        "opt",
        "OPTLearnedPositionalEmbedding.forward",
        (("position_ids + self.offset", "2 * position_ids + self.offset"),),
        config={"max_position_embeddings": 512},
    ),
)
