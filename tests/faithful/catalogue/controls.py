"""Controls: HF's eager logits stay the same, so the port must equal the original's.

The first ones are other spellings of the same arithmetic; the unread ones change
what eager mode never reads, and a port that follows them is wrong.
"""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="control", control=True)
RSQRT = "torch.rsqrt(variance + self.variance_epsilon)"
ADD = "residual + hidden_states"

CASES = (
    case(
        "same-times-one",
        "llama",
        "LlamaDecoderLayer.forward",
        (("self.mlp(hidden_states)", "self.mlp(hidden_states * 1.0)"),),
    ),
    case(
        "same-addends-exchanged",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        ((ADD, "hidden_states + residual"),),
        of=2,
        nth=1,
    ),
    case(
        "same-add-as-function",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        ((ADD, "torch.add(residual, hidden_states)"),),
        of=2,
        nth=0,
    ),
    case(
        "same-one-over-sqrt",
        "llama",
        "LlamaRMSNorm.forward",
        ((RSQRT, "(1.0 / torch.sqrt(variance + self.variance_epsilon))"),),
    ),
    case(
        "same-power-minus-half",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((RSQRT, "(variance + self.variance_epsilon) ** -0.5"),),
    ),
    case(
        "same-square-as-product",
        "olmo2",
        "Olmo2RMSNorm.forward",
        (("hidden_states.pow(2)", "(hidden_states * hidden_states)"),),
    ),
    case(
        "same-mean-as-function",
        "gemma2",
        "Gemma2RMSNorm._norm",
        (
            (
                "x.pow(2).mean(-1, keepdim=True)",
                "torch.mean(x**2, dim=-1, keepdim=True)",
            ),
        ),
    ),
    case(
        "same-cast-order",
        "llama",
        "LlamaRMSNorm.forward",
        (
            (
                "self.weight * hidden_states.to(input_dtype)",
                "(self.weight * hidden_states).to(input_dtype)",
            ),
        ),
    ),
    case(
        "same-gate-exchanged",
        "gemma2",
        "Gemma2MLP.forward",
        (
            (
                "self.act_fn(self.gate_proj(x)) * self.up_proj(x)",
                "self.up_proj(x) * self.act_fn(self.gate_proj(x))",
            ),
        ),
    ),
    case(
        "same-scale-on-k",
        "opt",
        "OPTAttention.forward",
        (
            ("self.q_proj(hidden_states) * self.scaling", "self.q_proj(hidden_states)"),
            (
                "self.k_proj(hidden_states)",
                "self.k_proj(hidden_states) * self.scaling",
            ),
        ),
    ),
    case(
        "same-positions-shifted",
        "gpt_neox",
        "GPTNeoXRotaryEmbedding.forward",
        (("position_ids[..., None].float()", "(position_ids[..., None].float() + 1)"),),
    ),
    case(
        "same-head-split",
        "llama",
        "LlamaAttention.forward",
        (
            (
                "self.q_proj(hidden_states).view(hidden_shape)",
                "self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))",
            ),
        ),
    ),
    case(
        "same-heads-moved-by-permute",
        "olmo2",
        "Olmo2Attention.forward",
        (
            (
                "value_states.view(hidden_shape).transpose(1, 2)",
                "value_states.view(hidden_shape).permute(0, 2, 1, 3)",
            ),
        ),
    ),
    case(
        "unread-window",
        "gemma2",
        "Gemma2Attention.__init__",
        (("config.sliding_window if", "config.sliding_window + 9 if"),),
    ),
    case(
        "unread-window-argument",
        "qwen3",
        "Qwen3Attention.forward",
        (("sliding_window=self.sliding_window", "sliding_window=3"),),
    ),
    case(
        "unread-is-causal",
        "llama",
        "LlamaAttention.__init__",
        (("self.is_causal = True", "self.is_causal = False"),),
    ),
    case(
        "unread-layer-type",
        "gemma2",
        "Gemma2Attention.__init__",
        (("config.layer_types[layer_idx]", "config.layer_types[0]"),),
    ),
    case(
        "same-under-no-grad",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (
            (
                "hidden_states = self.mlp(hidden_states)",
                "with torch.no_grad():\n    hidden_states = self.mlp(hidden_states)",
            ),
        ),
    ),
    case(
        "same-by-lambda",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "(lambda mlp, x: mlp(x))(self.mlp, hidden_states)",
            ),
        ),
    ),
    case(
        "same-logits-in-fp32",
        "llama",
        "LlamaForCausalLM.forward",
        (
            (
                "self.lm_head(hidden_states[:, slice_indices, :])",
                "self.lm_head(hidden_states[:, slice_indices, :]).float()",
            ),
        ),
    ),
    case(
        "same-residual-in-place",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        (
            (
                "hidden_states = residual + hidden_states",
                "hidden_states += residual",
            ),
        ),
        of=2,
        nth=1,
    ),
)
