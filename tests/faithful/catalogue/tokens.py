"""Changes that mix tokens outside attention: every one must be refused on its line."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="tokens", expressible=False, mixes_tokens=True)
ADD = "residual + hidden_states"
ROPED = (
    "query_states, key_states = "
    "apply_rotary_pos_emb(query_states, key_states, cos, sin)"
)

MIXERS = (
    case(
        "tokens-roll",
        "llama",
        "LlamaDecoderLayer.forward",
        ((ADD, "residual + torch.roll(hidden_states, 1, dims=1)"),),
        of=2,
        nth=1,
    ),
    case(
        "tokens-shift-by-cat",
        "qwen3",
        "Qwen3MLP.forward",
        (("self.up_proj(x)", "self.up_proj(torch.cat((x[:, :1], x[:, :-1]), dim=1))"),),
    ),
    case(
        "tokens-shift-by-pad",
        "gpt_neox",
        "GPTNeoXMLP.forward",
        (
            (
                "self.act(hidden_states)",
                "self.act(nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1])",
            ),
        ),
    ),
    case(
        "tokens-mean",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "self.mlp(hidden_states - hidden_states.mean(1, keepdim=True))",
            ),
        ),
    ),
    case(
        "tokens-mean-in-norm",
        "olmo2",
        "Olmo2RMSNorm.forward",
        ((".mean(-1, keepdim=True)", ".mean(1, keepdim=True)"),),
    ),
    case(
        "tokens-mean-of-all",
        "llama",
        "LlamaRMSNorm.forward",
        ((".mean(-1, keepdim=True)", ".mean()"),),
    ),
    case(
        "tokens-cumsum",
        "llama",
        "LlamaModel.forward",
        (
            (
                "hidden_states = inputs_embeds",
                "hidden_states = inputs_embeds.cumsum(dim=1)",
            ),
        ),
    ),
    case(
        "tokens-pool-over-time",
        "opt",
        "OPTDecoder.forward",
        (
            (
                "inputs_embeds + pos_embeds.to(inputs_embeds.device)",
                "nn.functional.avg_pool1d((inputs_embeds + pos_embeds)"
                ".transpose(1, 2), 3, 1, 1).transpose(1, 2)",
            ),
        ),
    ),
    case(
        "tokens-conv-over-time",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "nn.functional.conv1d(self.mlp(hidden_states).transpose(1, 2), "
                "torch.ones(64, 1, 3), padding=1, groups=64).transpose(1, 2)",
            ),
        ),
    ),
    case(
        "tokens-sorted",
        "olmo2",
        "Olmo2MLP.forward",
        (("self.gate_proj(x)", "self.gate_proj(x).sort(dim=1).values"),),
    ),
    case(
        "tokens-flipped",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (
            (
                "self.final_layer_norm(hidden_states)",
                "self.final_layer_norm(hidden_states.flip(1))",
            ),
        ),
    ),
    case(
        "tokens-softmax",
        "llama",
        "LlamaMLP.forward",
        (("self.up_proj(x)", "torch.softmax(self.up_proj(x), dim=-2)"),),
    ),
    case(
        "tokens-max",
        "qwen3",
        "Qwen3Model.forward",
        (
            (
                "self.norm(hidden_states)",
                "self.norm(hidden_states + hidden_states.amax(dim=1, keepdim=True))",
            ),
        ),
    ),
    case(
        "tokens-last-broadcast",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "self.mlp(hidden_states + hidden_states[:, -1:])",
            ),
        ),
    ),
    case(
        "tokens-einsum",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                'torch.einsum("bsd,btd->bsd", self.mlp(hidden_states), residual) * 0.1',
            ),
        ),
    ),
    case(
        "tokens-matmul",
        "llama",
        "LlamaDecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "hidden_states @ hidden_states.transpose(1, 2) @ hidden_states",
            ),
        ),
    ),
    case(
        "tokens-length-of-sequence",
        "opt",
        "OPTAttention.forward",
        (
            (
                "self.q_proj(hidden_states) * self.scaling",
                "self.q_proj(hidden_states) * self.scaling * tgt_len**0.5 * 0.3",
            ),
        ),
    ),
    case(
        "tokens-query-rolled",
        "gemma2",
        "Gemma2Attention.forward",
        ((ROPED, ROPED + "\nquery_states = torch.roll(query_states, 1, dims=2)"),),
    ),
    case(
        "tokens-values-smoothed",
        "gpt_neox",
        "GPTNeoXAttention.forward",
        ((ROPED, ROPED + "\nvalue_states = value_states.cummax(dim=-2).values"),),
    ),
    case(
        "tokens-and-features-folded",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "self.mlp(hidden_states.transpose(1, 2).reshape(hidden_states.shape))",
            ),
        ),
    ),
    case(
        "tokens-heads-mixed-in-view",
        "llama",
        "LlamaAttention.forward",
        (
            (
                "self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)",
                "self.v_proj(hidden_states).view(1, -1, input_shape[1], self.head_dim)",
            ),
        ),
    ),
    case(
        "tokens-ids-shifted",
        "llama",
        "LlamaModel.forward",
        (("self.embed_tokens(input_ids)", "self.embed_tokens(input_ids.roll(1, -1))"),),
    ),
    case(
        "tokens-std-over-sequence",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "self.self_attn_layer_norm(hidden_states)",
                "hidden_states / (1 + hidden_states.std(1, keepdim=True))",
            ),
        ),
        of=2,
        nth=0,
    ),
    case(
        "tokens-flattened-neighbour",
        "opt",
        "OPTDecoderLayer.forward",
        (("self.fc1(hidden_states)", "self.fc1(hidden_states.roll(1, 0))"),),
    ),
    case(
        "tokens-gathered-backwards",
        "gemma2",
        "Gemma2Model.forward",
        (
            (
                "self.norm(hidden_states)",
                "self.norm(hidden_states[:, position_ids[0].flip(0)])",
            ),
        ),
    ),
)

# Values that depend on how many tokens or sequences there are, or where a chunk starts.
COUNTED = (
    case(
        "tokens-branch-on-length",
        "llama",
        "LlamaMLP.forward",
        (
            (
                "        return down_proj",
                "        return down_proj * (2.0 if x.shape[1] > 16 else 1.0)",
            ),
        ),
    ),
    case(
        "tokens-batch-size",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        (
            (
                "self.mlp(hidden_states)",
                "self.mlp(hidden_states) / (hidden_states.shape[0] + 1)",
            ),
        ),
    ),
    case(
        "tokens-counted-from-zero",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (
            (
                "self.final_layer_norm(hidden_states)",
                "self.final_layer_norm(hidden_states * (1 + torch.arange("
                "hidden_states.shape[1])[None, :, None] * 0.1))",
            ),
        ),
    ),
    case(
        "tokens-positions-reversed",
        "llama",
        "LlamaModel.forward",
        (
            (
                "self.rotary_emb(hidden_states, position_ids=position_ids)",
                "self.rotary_emb(hidden_states, position_ids=position_ids.flip(-1))",
            ),
        ),
    ),
    case(
        "tokens-normed-together",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "self.self_attn_layer_norm(hidden_states)",
                "nn.functional.layer_norm(hidden_states, hidden_states.shape[1:])",
            ),
        ),
        of=2,
        nth=0,
    ),
    case(
        "tokens-odd-even-swapped",
        "qwen3",
        "Qwen3MLP.forward",
        (
            (
                "self.gate_proj(x)",
                "self.gate_proj(x + torch.cat((x[:, 1::2], x[:, ::2]), dim=1))",
            ),
        ),
    ),
    case(
        "tokens-reached-by-topk",
        "gemma2",
        "Gemma2MLP.forward",
        (("self.up_proj(x)", "self.up_proj(x) + x.topk(1, dim=1).values.mean()"),),
    ),
)

CASES: tuple[Mutation, ...] = (*MIXERS, *COUNTED)
