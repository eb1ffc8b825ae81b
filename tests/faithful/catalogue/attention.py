"""Attention: scale, heads, masks, caps and the eager function itself."""

from functools import partial

from tests.faithful.mutation import Mutation

scale = partial(Mutation, kind="scale")
heads = partial(Mutation, kind="heads")
mask = partial(Mutation, kind="mask")
eager = partial(Mutation, kind="eager", where="eager_attention_forward")
cap = partial(Mutation, kind="cap", model="gemma2")
SCORES = "torch.matmul(query, key_states.transpose(2, 3)) * scaling"
SOFTMAX = "nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32)"
ROPED = (
    "query_states, key_states = "
    "apply_rotary_pos_emb(query_states, key_states, cos, sin)"
)
MERGED = "attn_output.reshape(*input_shape, -1).contiguous()"
V_HEADS = "self.v_proj(hidden_states).view(hidden_shape)"

CASES = (
    scale(
        "scale-fourth-root",
        "llama",
        "LlamaAttention.__init__",
        (("self.head_dim**-0.5", "self.head_dim**-0.25"),),
    ),
    scale(
        "scale-twice",
        "qwen3",
        "Qwen3Attention.__init__",
        (("self.head_dim**-0.5", "2 * self.head_dim**-0.5"),),
    ),
    scale(
        "scale-by-hidden",
        "olmo2",
        "Olmo2Attention.__init__",
        (("self.head_dim**-0.5", "config.hidden_size**-0.5"),),
    ),
    scale(
        "scale-other-field",
        "gemma2",
        "Gemma2Attention.__init__",
        (("config.query_pre_attn_scalar**-0.5", "self.head_dim**-0.5"),),
    ),
    scale(
        "scale-by-layer",
        "gpt_neox",
        "GPTNeoXAttention.__init__",
        (("self.head_size**-0.5", "self.head_size**-0.5 / (layer_idx + 1)"),),
    ),
    scale(
        "scale-call-argument",
        "opt",
        "OPTAttention.forward",
        (("scaling=1.0", "scaling=0.5"),),
    ),
    scale(
        "scale-on-k-as-well",
        "opt",
        "OPTAttention.forward",
        (("self.k_proj(hidden_states)", "self.k_proj(hidden_states) * self.scaling"),),
    ),
    scale(
        "scale-q-extra",
        "llama",
        "LlamaAttention.forward",
        ((ROPED, "query_states = query_states * 1.5\n" + ROPED),),
    ),
    heads(
        "heads-twice-as-many",
        "opt",
        "OPTAttention.__init__",
        (("config.num_attention_heads", "config.num_attention_heads * 2"),),
        tp2=True,
    ),
    heads(
        "heads-k-for-v",
        "llama",
        "LlamaAttention.forward",
        (("            value_states,\n", "            key_states,\n"),),
    ),
    heads(
        "heads-qk-exchanged",
        "gpt_neox",
        "GPTNeoXAttention.forward",
        (
            (
                "query_states, key_states, value_states = qkv",
                "key_states, query_states, value_states = qkv",
            ),
        ),
    ),
    heads(
        "heads-packed-in-blocks",
        "gpt_neox",
        "GPTNeoXAttention.forward",
        (
            (
                ".view(hidden_shape).transpose(1, 2)",
                ".view(*input_shape, 3, -1, self.head_size)",
            ),
            (
                "qkv.chunk(3, dim=-1)",
                "(part.transpose(1, 2) for part in qkv.unbind(-3))",
            ),
        ),
        tp2=True,
    ),
    heads(
        "heads-q-flipped",
        "qwen3",
        "Qwen3Attention.forward",
        ((ROPED, ROPED + "\nquery_states = query_states.flip(1)"),),
        tp2=True,
    ),
    heads(
        "heads-v-features-flipped",
        "gemma2",
        "Gemma2Attention.forward",
        ((V_HEADS, V_HEADS + ".flip(-1)"),),
    ),
    heads(
        "heads-mean-removed",
        "llama",
        "LlamaAttention.forward",
        ((MERGED, "(attn_output - attn_output.mean(2, keepdim=True)).flatten(2)"),),
        tp2=True,
    ),
    heads(
        "heads-merged-by-feature",
        "olmo2",
        "Olmo2Attention.forward",
        ((MERGED, "attn_output.transpose(2, 3).reshape(*input_shape, -1)"),),
        tp2=True,
    ),
    heads(
        "heads-v-interleaved",
        "opt",
        "OPTAttention.forward",
        (
            (
                "value_states.view(bsz, -1, self.num_heads, self.head_dim)",
                "value_states.view(bsz, -1, self.head_dim, self.num_heads).mT",
            ),
        ),
        tp2=True,
    ),
    heads(
        "heads-kv-tiled",
        "llama",
        "repeat_kv",
        (
            ("hidden_states[:, :, None, :, :]", "hidden_states[:, None, :, :, :]"),
            (
                ".expand(batch, num_key_value_heads, n_rep, slen, head_dim)",
                ".expand(batch, n_rep, num_key_value_heads, slen, head_dim)",
            ),
        ),
    ),
    heads(
        "heads-output-normed",
        "qwen3",
        "Qwen3Attention.forward",
        ((MERGED, "nn.functional.normalize(attn_output, dim=-1).flatten(2)"),),
    ),
    heads(
        "heads-row-normed",
        "qwen3",
        "Qwen3Attention.forward",
        ((MERGED, "nn.functional.normalize(attn_output.flatten(2), dim=-1)"),),
        tp2=True,
    ),
    heads(
        "clamp-q",
        "llama",
        "LlamaAttention.forward",
        ((ROPED, "query_states = query_states.clamp(-1.0, 1.0)\n" + ROPED),),
    ),
    heads(
        "clamp-v",
        "gpt_neox",
        "GPTNeoXAttention.forward",
        ((ROPED, ROPED + "\nvalue_states = torch.clamp(value_states, max=0.5)"),),
    ),
    heads(
        "clamp-packed",
        "gpt_neox",
        "GPTNeoXAttention.forward",
        (
            (
                "self.query_key_value(hidden_states)",
                "self.query_key_value(hidden_states).clamp(-1, 1)",
            ),
        ),
    ),
    mask(
        "mask-window-everywhere",
        "gemma2",
        "Gemma2Model.forward",
        (
            (
                '"full_attention": create_causal_mask(',
                '"full_attention": create_sliding_window_causal_mask(',
            ),
        ),
    ),
    mask(
        "mask-window-nowhere",
        "gemma2",
        "Gemma2Model.forward",
        (
            (
                '"sliding_attention": create_sliding_window_causal_mask(',
                '"sliding_attention": create_causal_mask(',
            ),
        ),
    ),
    mask(
        "mask-types-reversed",
        "qwen3",
        "Qwen3Model.forward",
        (("self.config.layer_types[i]", "self.config.layer_types[-1 - i]"),),
    ),
    # Positions that don't count up by one are packed sequences to the mask's maker.
    mask(
        "mask-packed-by-positions",
        "olmo2",
        "Olmo2Model.forward",
        (("position_ids.unsqueeze(0)", "position_ids.clamp(max=20).unsqueeze(0)"),),
        expressible=False,
    ),
    mask(
        "mask-none",
        "llama",
        "LlamaModel.forward",
        (("attention_mask=causal_mask", "attention_mask=None"),),
        expressible=False,
    ),
    mask(
        "mask-halved",
        "olmo2",
        "Olmo2Model.forward",
        (("attention_mask=causal_mask", "attention_mask=causal_mask.clamp(min=-2.0)"),),
        expressible=False,
    ),
    eager(
        "eager-softmax-over-queries",
        "llama",
        edits=((SOFTMAX, SOFTMAX.replace("-1", "-2")),),
        expressible=False,
    ),
    eager(
        "eager-softmax-over-heads",
        "qwen3",
        edits=((SOFTMAX, SOFTMAX.replace("-1", "1")),),
        expressible=False,
    ),
    eager(
        "eager-scale-halved",
        "llama",
        edits=((SCORES, SCORES + " * 0.5"),),
    ),
    eager(
        "eager-scale-squared",
        "olmo2",
        edits=((SCORES, SCORES + "**2"),),
    ),
    eager(
        "eager-temperature",
        "gpt_neox",
        edits=((SOFTMAX, SOFTMAX.replace("attn_weights,", "attn_weights / 2.0,")),),
    ),
    eager(
        "eager-root-of-weights",
        "qwen3",
        edits=((SOFTMAX, SOFTMAX + ".sqrt()"),),
        expressible=False,
    ),
    eager(
        "eager-sigmoid",
        "opt",
        edits=((SOFTMAX, "torch.sigmoid(attn_weights)"),),
        expressible=False,
    ),
    eager(
        "eager-sink",
        "llama",
        edits=(
            (
                SOFTMAX,
                "nn.functional.softmax(nn.functional.pad("
                "attn_weights, (0, 1)), dim=-1)[..., :-1]",
            ),
        ),
    ),
    eager(
        "eager-output-scaled",
        "olmo2",
        edits=(
            (
                "torch.matmul(attn_weights, value_states)",
                "torch.matmul(attn_weights, value_states) * 0.5",
            ),
        ),
    ),
    eager(
        "eager-cosine",
        "qwen3",
        edits=(
            (
                SCORES,
                SCORES.replace("query,", "nn.functional.normalize(query, dim=-1),"),
            ),
        ),
    ),
    eager(
        "eager-heads-not-moved",
        "olmo2",
        edits=(
            ("attn_output.transpose(1, 2).contiguous()", "attn_output.contiguous()"),
        ),
        expressible=False,
    ),
    eager(
        "eager-last-key-dropped",
        "opt",
        edits=(
            (
                "torch.matmul(attn_weights, value)",
                "torch.matmul(attn_weights.tril(-1), value)",
            ),
        ),
        expressible=False,
    ),
    cap(
        "cap-scores-doubled",
        where="eager_attention_forward",
        edits=(("attn_weights / softcap", "attn_weights / (2 * softcap)"),),
    ),
    cap(
        "cap-scores-no-tanh",
        where="eager_attention_forward",
        edits=(("torch.tanh(attn_weights)", "attn_weights * 1.0"),),
    ),
    cap(
        "cap-scores-atan",
        where="eager_attention_forward",
        edits=(("torch.tanh(", "torch.atan("),),
        expressible=False,
    ),
    cap(
        "cap-scores-not-undone",
        where="eager_attention_forward",
        edits=(("attn_weights * softcap", "attn_weights"),),
    ),
    cap(
        "cap-after-mask",
        where="eager_attention_forward",
        edits=(
            (
                "attn_weights = torch.tanh(attn_weights)",
                "attn_weights = attn_weights + attention_mask",
            ),
            (
                "attn_weights = attn_weights + attention_mask",
                "attn_weights = torch.tanh(attn_weights)",
            ),
        ),
        expressible=False,
    ),
    cap(
        "cap-other-field",
        where="Gemma2Attention.__init__",
        edits=(
            (
                "self.config.attn_logit_softcapping",
                "self.config.final_logit_softcapping",
            ),
        ),
    ),
    cap(
        "cap-not-passed",
        where="Gemma2Attention.forward",
        edits=(("softcap=self.attn_logit_softcapping", "softcap=None"),),
    ),
    cap(
        "cap-logits-twice",
        where="Gemma2ForCausalLM.forward",
        edits=(
            ("logits = torch.tanh(logits)", "logits = torch.tanh(torch.tanh(logits))"),
        ),
    ),
    cap(
        "cap-logits-no-tanh",
        where="Gemma2ForCausalLM.forward",
        edits=(("torch.tanh(logits)", "torch.sin(logits)"),),
    ),
    cap(
        "cap-logits-other-out",
        where="Gemma2ForCausalLM.forward",
        edits=(
            (
                "logits * self.config.final_logit_softcapping",
                "logits * self.config.attn_logit_softcapping",
            ),
        ),
    ),
)
