"""Ways to change arithmetic that a reader of shapes and names may miss.

Aliases and in-place operations, names bound again, attributes set from elsewhere,
arguments that torch's functions take, the branch that another config takes.
"""

from functools import partial

from tests.faithful.mutation import Mutation

alias = partial(Mutation, kind="alias", either=True)
bound = partial(Mutation, kind="binding", either=True)
argument = partial(Mutation, kind="argument")
branch = partial(Mutation, kind="branch")
data = partial(Mutation, kind="positions and ids")
ADD = "residual + hidden_states"
NORMED = "hidden_states = self.input_layernorm(hidden_states)"
ROPED = (
    "query_states, key_states = "
    "apply_rotary_pos_emb(query_states, key_states, cos, sin)"
)
SERIAL = {"use_parallel_residual": False}
POST_NORM = {"do_layer_norm_before": False}

CASES = (
    # `residual` is the same tensor as `hidden_states` when it changes in place.
    alias(
        "alias-in-place-method",
        "llama",
        "LlamaDecoderLayer.forward",
        ((NORMED, NORMED.replace("hidden_states)", "hidden_states.mul_(0.5))")),),
    ),
    alias(
        "alias-augmented",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        ((NORMED, "hidden_states += 0.25\n" + NORMED),),
    ),
    alias(
        "alias-augmented-product",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        ((NORMED, "hidden_states *= 0.5\n" + NORMED),),
    ),
    alias(
        "alias-slice-stored",
        "llama",
        "LlamaAttention.forward",
        ((ROPED, ROPED + "\nquery_states[..., :4] = 0.0"),),
    ),
    alias(
        "alias-view-changed",
        "olmo2",
        "Olmo2Attention.forward",
        ((ROPED, ROPED + "\nvalue_states[..., ::2].zero_()"),),
    ),
    alias(
        "alias-out-argument",
        "gpt_neox",
        "GPTNeoXMLP.forward",
        (
            (
                "self.act(hidden_states)",
                "self.act(torch.abs(hidden_states, out=hidden_states))",
            ),
        ),
    ),
    bound(
        "binding-method-replaced",
        "llama",
        "LlamaMLP",
        (
            (
                "class LlamaMLP(nn.Module):",
                "LlamaRMSNorm.forward = lambda self, x: x * self.weight\n\n\n"
                "class LlamaMLP(nn.Module):",
            ),
        ),
    ),
    bound(
        "binding-helper-again",
        "qwen3",
        "Qwen3DecoderLayer",
        (
            (
                "class Qwen3DecoderLayer(GradientCheckpointingLayer):",
                "def rotate_half(x):\n    return x.flip(-1)\n\n\n"
                "class Qwen3DecoderLayer(GradientCheckpointingLayer):",
            ),
        ),
    ),
    bound(
        "binding-table-again",
        "olmo2",
        "Olmo2MLP",
        (
            (
                "class Olmo2MLP(nn.Module):",
                'ACT2FN = {"silu": torch.tanh}\n\n\nclass Olmo2MLP(nn.Module):',
            ),
        ),
    ),
    bound(
        "binding-decorated",
        "gemma2",
        "rotate_half",
        (
            (
                "def rotate_half(x):",
                "@(lambda turn: lambda x: turn(x) * 0.5)\ndef rotate_half(x):",
            ),
        ),
    ),
    bound(
        "binding-scaling-augmented",
        "llama",
        "LlamaAttention.__init__",
        (("self.is_causal = True", "self.is_causal = True\nself.scaling *= 2"),),
    ),
    bound(
        "binding-setattr",
        "qwen3",
        "Qwen3Attention.__init__",
        (
            (
                "self.is_causal = True",
                'self.is_causal = True\nsetattr(self, "scaling", 0.5)',
            ),
        ),
    ),
    bound(
        "binding-from-outside",
        "llama",
        "LlamaModel.__init__",
        (
            (
                "self.gradient_checkpointing = False",
                "self.gradient_checkpointing = False\n"
                "self.layers[1].mlp.act_fn = nn.Tanh()",
            ),
        ),
    ),
    bound(
        "binding-all-from-outside",
        "olmo2",
        "Olmo2Model.__init__",
        (
            (
                "self.gradient_checkpointing = False",
                "self.gradient_checkpointing = False\nfor layer in self.layers:\n"
                "    layer.self_attn.scaling = 0.5",
            ),
        ),
    ),
    bound(
        "binding-config-written",
        "llama",
        "LlamaModel.__init__",
        (
            (
                "self.padding_idx = config.pad_token_id",
                "config.rms_norm_eps = config.rms_norm_eps * 8\n"
                "self.padding_idx = config.pad_token_id",
            ),
        ),
    ),
    bound(
        "binding-hook",
        "llama",
        "LlamaDecoderLayer.__init__",
        (
            (
                "self.mlp = LlamaMLP(config)",
                "self.mlp = LlamaMLP(config)\n"
                "self.mlp.register_forward_hook(lambda m, a, out: out * 0.5)",
            ),
        ),
    ),
    bound(
        "binding-method-again",
        "qwen3",
        "Qwen3MLP",
        (
            (
                "        return down_proj",
                "        return down_proj\n\n    def forward(self, x):\n"
                "        return self.down_proj(self.gate_proj(x))",
            ),
        ),
    ),
    bound(
        "binding-forward-on-instance",
        "llama",
        "LlamaMLP.__init__",
        (
            (
                "self.act_fn = ACT2FN[config.hidden_act]",
                "self.act_fn = ACT2FN[config.hidden_act]\n"
                "self.forward = lambda x: x * 0.5",
            ),
        ),
    ),
    bound(
        "binding-inherited-first",
        "gemma2",
        "Gemma2MLP",
        (
            (
                "class Gemma2MLP(nn.Module):",
                "class Halved:\n    def __call__(self, x):\n"
                "        return 0.5 * self.forward(x)\n\n\n"
                "class Gemma2MLP(Halved, nn.Module):",
            ),
        ),
    ),
    argument(
        "argument-norm-p",
        "llama",
        "LlamaRMSNorm.forward",
        (
            (
                "hidden_states.pow(2).mean(-1, keepdim=True)",
                "hidden_states.norm(p=1, dim=-1, keepdim=True)",
            ),
        ),
    ),
    argument(
        "argument-correction",
        "olmo2",
        "Olmo2RMSNorm.forward",
        (
            (
                "hidden_states.pow(2).mean(-1, keepdim=True)",
                "hidden_states.var(-1, keepdim=True, correction=8)",
            ),
        ),
    ),
    argument(
        "argument-alpha",
        "llama",
        "LlamaDecoderLayer.forward",
        ((ADD, "torch.add(residual, hidden_states, alpha=0.5)"),),
        of=2,
        nth=0,
    ),
    argument(
        "argument-max-norm",
        "llama",
        "LlamaModel.__init__",
        (("self.padding_idx)", "self.padding_idx, max_norm=1.0)"),),
    ),
    argument(
        "argument-unbiased",
        "qwen3",
        "Qwen3RMSNorm.forward",
        ((".pow(2).mean(-1, keepdim=True)", ".var(-1, keepdim=True)"),),
    ),
    argument(
        "argument-layernorm-eps-default",
        "gpt_neox",
        "GPTNeoXModel.__init__",
        ((", eps=config.layer_norm_eps)", ")"),),
    ),
    argument(
        "argument-other-field",
        "llama",
        "LlamaModel.__init__",
        (("eps=config.rms_norm_eps", "eps=config.initializer_range"),),
    ),
    argument(
        "argument-gelu-exact",
        "gemma2",
        "Gemma2MLP.forward",
        (("self.act_fn(self.gate_proj(x))", "nn.functional.elu(self.gate_proj(x))"),),
    ),
    argument(
        "argument-leaky",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "self.activation_fn(hidden_states)",
                "nn.functional.leaky_relu(hidden_states, 0.2)",
            ),
        ),
    ),
    argument(
        "argument-through-bf16",
        "llama",
        "LlamaMLP.forward",
        (("self.up_proj(x)", "self.up_proj(x).to(torch.bfloat16).float()"),),
    ),
    argument(
        "argument-rounded",
        "olmo2",
        "Olmo2MLP.forward",
        (("self.up_proj(x)", "torch.round(self.up_proj(x), decimals=1)"),),
    ),
    argument(
        "argument-dropout-on",
        "opt",
        "OPTDecoderLayer.forward",
        (("training=self.training", "training=True"),),
        of=2,
        nth=0,
        expressible=False,
    ),
    branch(
        "branch-serial-subtracts",
        "gpt_neox",
        "GPTNeoXLayer.forward",
        (
            (
                "hidden_states = mlp_output + attn_output\n",
                "hidden_states = mlp_output - attn_output\n",
            ),
        ),
        config=SERIAL,
    ),
    branch(
        "branch-serial-from-hidden",
        "gpt_neox",
        "GPTNeoXLayer.forward",
        (
            (
                "mlp_output = self.mlp(self.post_attention_layernorm(attn_output))",
                "mlp_output = self.mlp(self.input_layernorm(attn_output))",
            ),
        ),
        config=SERIAL,
        tp2=True,
    ),
    branch(
        "branch-norm-after-both",
        "opt",
        "OPTDecoderLayer.forward",
        (("if not self.do_layer_norm_before:", "if True:"),),
        of=2,
        nth=0,
    ),
    branch(
        "branch-norm-after-missing",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "self.final_layer_norm(hidden_states)",
                "hidden_states * 0.5",
            ),
        ),
        of=2,
        nth=1,
        config=POST_NORM,
    ),
    branch(
        "branch-by-layer",
        "gemma2",
        "Gemma2Attention.forward",
        (
            (
                ROPED,
                ROPED + '\nif self.layer_type == "full_attention":\n'
                "    query_states = query_states * 0.5",
            ),
        ),
    ),
    branch(
        "branch-on-data",
        "llama",
        "LlamaMLP.forward",
        (
            (
                "        return down_proj",
                "        return down_proj if down_proj.mean() > 0 else -down_proj",
            ),
        ),
        expressible=False,
    ),
    data(
        "data-where-positive",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "torch.where(hidden_states > 0, self.mlp(hidden_states), residual)",
            ),
        ),
    ),
    data(
        "data-scaled-by-position",
        "llama",
        "LlamaModel.forward",
        (
            (
                "hidden_states = inputs_embeds",
                "hidden_states = inputs_embeds * (1 + 0.1 * position_ids[..., None])",
            ),
        ),
    ),
    data(
        "data-positions-halved-whole",
        "qwen3",
        "Qwen3RotaryEmbedding.forward",
        (
            (
                "position_ids[..., None].float()",
                "(position_ids[..., None] // 2).float()",
            ),
        ),
    ),
    data(
        "data-by-token-id",
        "olmo2",
        "Olmo2Model.forward",
        (
            (
                "self.embed_tokens(input_ids)",
                "self.embed_tokens(input_ids) * (input_ids % 2 + 1)[..., None]",
            ),
        ),
    ),
)
