"""The MLP: its gate, its activation, what is between its projections."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="mlp")
GATED = "self.act_fn(self.gate_proj(x)) * self.up_proj(x)"
GATE = "self.act_fn(self.gate_proj(x))"
ACT = "ACT2FN[config.hidden_act]"

CASES = (
    case(
        "gate-on-up",
        "llama",
        "LlamaMLP.forward",
        ((GATED, "self.gate_proj(x) * self.act_fn(self.up_proj(x))"),),
        tp2=True,
    ),
    case(
        "gate-added", "qwen3", "Qwen3MLP.forward", ((GATED, GATED.replace("*", "+")),)
    ),
    case(
        "gate-sigmoid-too",
        "olmo2",
        "Olmo2MLP.forward",
        ((GATE, f"torch.sigmoid({GATE})"),),
    ),
    case(
        "gate-activated-twice",
        "gemma2",
        "Gemma2MLP.forward",
        ((GATE, f"self.act_fn({GATE})"),),
    ),
    case(
        "gate-not-activated",
        "llama",
        "LlamaMLP.forward",
        ((GATE, "self.gate_proj(x)"),),
    ),
    case(
        "gate-activates-product",
        "qwen3",
        "Qwen3MLP.forward",
        ((GATED, "self.act_fn(self.gate_proj(x) * self.up_proj(x))"),),
    ),
    case(
        "gate-squared",
        "olmo2",
        "Olmo2MLP.forward",
        ((GATE, GATE + " ** 2"),),
    ),
    case(
        "gate-up-plus-one",
        "gemma2",
        "Gemma2MLP.forward",
        (("self.up_proj(x)", "(self.up_proj(x) + 1)"),),
    ),
    case(
        "gate-clamped",
        "llama",
        "LlamaMLP.forward",
        (("self.gate_proj(x)", "self.gate_proj(x).clamp(max=0.5)"),),
    ),
    case(
        "gate-steeper",
        "llama",
        "LlamaMLP.forward",
        (
            (
                GATE,
                "self.gate_proj(x) * torch.sigmoid(1.702 * self.gate_proj(x))",
            ),
        ),
        tp2=True,
    ),
    case(
        "gate-by-itself",
        "qwen3",
        "Qwen3MLP.forward",
        (("self.up_proj(x)", "self.gate_proj(x)"),),
    ),
    case(
        "mlp-normed-between",
        "llama",
        "LlamaMLP.forward",
        ((GATED, f"nn.functional.normalize({GATED}, dim=-1)"),),
        tp2=True,
    ),
    case(
        "mlp-features-rolled",
        "olmo2",
        "Olmo2MLP.forward",
        ((GATED, f"torch.roll({GATED}, 1, dims=-1)"),),
        tp2=True,
    ),
    case(
        "mlp-features-summed",
        "qwen3",
        "Qwen3MLP.forward",
        ((GATED, f"({GATED}).cumsum(-1) * 0.1"),),
        tp2=True,
    ),
    case(
        "mlp-other-activation",
        "llama",
        "LlamaMLP.__init__",
        ((ACT, 'ACT2FN["gelu_pytorch_tanh"]'),),
    ),
    case(
        "mlp-fixed-relu",
        "gpt_neox",
        "GPTNeoXMLP.__init__",
        ((ACT, 'ACT2FN["relu"]'),),
    ),
    case(
        "mlp-activation-missing",
        "gpt_neox",
        "GPTNeoXMLP.forward",
        (("self.act(hidden_states)", "hidden_states * 0.5"),),
    ),
    case(
        "mlp-relu-squared",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "self.activation_fn(hidden_states)",
                "self.activation_fn(hidden_states).square()",
            ),
        ),
    ),
    case(
        "mlp-output-scaled",
        "opt",
        "OPTDecoderLayer.forward",
        (("self.fc2(hidden_states)", "0.25 * self.fc2(hidden_states)"),),
        tp2=True,
    ),
    case(
        "mlp-activation-after",
        "gpt_neox",
        "GPTNeoXMLP.forward",
        (
            (
                "self.dense_4h_to_h(hidden_states)",
                "self.act(self.dense_4h_to_h(hidden_states))",
            ),
        ),
        tp2=True,
    ),
    case(
        "mlp-bias-dropped",
        "opt",
        "OPTDecoderLayer.__init__",
        (
            (
                "config.ffn_dim, self.embed_dim, bias=config.enable_bias",
                "config.ffn_dim, self.embed_dim, bias=False",
            ),
        ),
    ),
)
