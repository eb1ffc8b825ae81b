"""Norms: their formula, their place, their number."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="norm")
VARIANCE = "hidden_states.pow(2).mean(-1, keepdim=True)"
RSQRT = "torch.rsqrt(variance + self.variance_epsilon)"
UPCAST = "hidden_states.to(torch.float32)"
WEIGHTED = "self.weight * hidden_states.to(input_dtype)"
ROPED = "query_states, key_states = apply_rotary_pos_emb("
Q_NORMED = "self.q_norm(self.q_proj(hidden_states).view(hidden_shape))"

CASES = (
    case(
        "norm-eps-outside-root",
        "llama",
        "LlamaRMSNorm.forward",
        ((RSQRT, "(torch.rsqrt(variance) + self.variance_epsilon)"),),
    ),
    case(
        "norm-sum-for-mean",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((".mean(-1, keepdim=True)", ".sum(-1, keepdim=True)"),),
    ),
    case(
        "norm-max-for-mean",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((".mean(-1, keepdim=True)", ".amax(-1, keepdim=True)"),),
    ),
    case(
        "norm-no-root",
        "olmo2",
        "Olmo2RMSNorm.forward",
        (("torch.rsqrt(", "torch.reciprocal("),),
        tp2=True,
    ),
    case(
        "norm-root-not-inverted",
        "llama",
        "LlamaRMSNorm.forward",
        (("torch.rsqrt(", "torch.sqrt("),),
    ),
    case(
        "norm-one-plus-weight",
        "llama",
        "LlamaRMSNorm.forward",
        ((WEIGHTED, "(1.0 + self.weight) * hidden_states.to(input_dtype)"),),
    ),
    case(
        "norm-plain-weight",
        "gemma2",
        "Gemma2RMSNorm.forward",
        (("(1.0 + self.weight.float())", "self.weight.float()"),),
    ),
    case(
        "norm-half-plus-weight",
        "gemma2",
        "Gemma2RMSNorm.forward",
        (("(1.0 + ", "(0.5 + "),),
    ),
    case(
        "norm-variance-centred",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((VARIANCE, "hidden_states.var(-1, keepdim=True, unbiased=False)"),),
    ),
    case(
        "norm-mean-subtracted",
        "llama",
        "LlamaRMSNorm.forward",
        ((UPCAST, UPCAST + " - hidden_states.mean(-1, keepdim=True)"),),
    ),
    case(
        "norm-cubed",
        "olmo2",
        "Olmo2RMSNorm.forward",
        ((".pow(2)", ".abs().pow(3)"),),
    ),
    case("norm-l1", "llama", "LlamaRMSNorm.forward", ((".pow(2)", ".abs()"),)),
    case(
        "norm-half-of-features",
        "llama",
        "LlamaRMSNorm.forward",
        (("hidden_states.pow(2)", "hidden_states[..., ::2].pow(2)"),),
    ),
    case(
        "norm-eps-twice",
        "gemma2",
        "Gemma2RMSNorm._norm",
        (("+ self.eps", "+ 2 * self.eps"),),
    ),
    case(
        "norm-weight-before",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((UPCAST, "self.weight * " + UPCAST),),
    ),
    case(
        "norm-weight-missing",
        "olmo2",
        "Olmo2RMSNorm.forward",
        (("self.weight * hidden_states", "hidden_states"),),
    ),
    case(
        "layernorm-other-eps",
        "gpt_neox",
        "GPTNeoXLayer.__init__",
        (("eps=config.layer_norm_eps", "eps=0.3"),),
        nth=1,
        of=2,
    ),
    case(
        "layernorm-no-bias",
        "gpt_neox",
        "GPTNeoXModel.__init__",
        (("eps=config.layer_norm_eps)", "eps=config.layer_norm_eps, bias=False)"),),
    ),
    case(
        "layernorm-no-affine",
        "opt",
        "OPTDecoder.__init__",
        (("=config.layer_norm_elementwise_affine", "=False"),),
    ),
    case(
        "norm-final-twice",
        "llama",
        "LlamaModel.forward",
        (("self.norm(hidden_states)", "self.norm(self.norm(hidden_states))"),),
    ),
    case(
        "norm-final-missing",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (("self.final_layer_norm(hidden_states)", "hidden_states * 1.5"),),
    ),
    case(
        "norm-sandwich-open",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        (("self.post_feedforward_layernorm(hidden_states)", "hidden_states * 0.5"),),
    ),
    case(
        "norm-extra-in-layer",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        (("self.mlp(hidden_states)", "self.input_layernorm(self.mlp(hidden_states))"),),
    ),
    case(
        "norm-after-not-before",
        "llama",
        "LlamaDecoderLayer.forward",
        (
            ("self.post_attention_layernorm(hidden_states)", "self.mlp(hidden_states)"),
            ("self.mlp(hidden_states)", "self.post_attention_layernorm(hidden_states)"),
        ),
    ),
    case(
        "norm-before-not-after",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (
            (
                "self.post_feedforward_layernorm(hidden_states)",
                "self.mlp(hidden_states)",
            ),
            (
                "self.mlp(hidden_states)",
                "self.post_feedforward_layernorm(hidden_states)",
            ),
        ),
    ),
    case(
        "norms-exchanged",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        (("self.input_layernorm(", "self.pre_feedforward_layernorm("),),
    ),
    case(
        "qnorm-after-rope",
        "qwen3",
        "Qwen3Attention.forward",
        (
            (Q_NORMED, "self.q_proj(hidden_states).view(hidden_shape)"),
            (
                ROPED + "query_states, key_states, cos, sin)",
                ROPED + "query_states, key_states, cos, sin)"
                "\nquery_states = self.q_norm(query_states)",
            ),
        ),
    ),
    case(
        "qnorm-by-k-weight",
        "qwen3",
        "Qwen3Attention.forward",
        (("self.q_norm(", "self.k_norm("),),
        tp2=True,
    ),
    case(
        "qnorm-missing",
        "olmo2",
        "Olmo2Attention.forward",
        (("self.q_norm(self.q_proj(hidden_states))", "self.q_proj(hidden_states)"),),
    ),
    case(
        "vnorm-added",
        "olmo2",
        "Olmo2Attention.forward",
        (("self.v_proj(hidden_states)", "self.k_norm(self.v_proj(hidden_states))"),),
        tp2=True,
    ),
)
