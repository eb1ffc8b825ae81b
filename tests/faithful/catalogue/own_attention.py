"""Decoders that write their own attention, masks and positions."""

from functools import partial

from tests.faithful.mutation import Mutation

alibi = partial(Mutation, kind="alibi")
packed = partial(Mutation, kind="packed projections")
mask = partial(Mutation, kind="mask")
table = partial(Mutation, kind="tables of positions")
scale = partial(Mutation, kind="scale")

BLOOM = "BloomAttention"
SLOPES = "slopes = torch.pow(base, powers)"
PLACES = (
    "arange_tensor = ((attention_mask.cumsum(dim=-1) - 1) * attention_mask)[:, None, :]"
)
SPLIT = (
    "query_states, key_states, value_states = "
    "self.c_attn(hidden_states).split(self.split_size, dim=2)"
)

CASES = (
    alibi(
        "alibi-steeper",
        "bloom",
        "build_alibi_tensor",
        ((SLOPES, "slopes = 2 * torch.pow(base, powers)"),),
        tp2=True,
    ),
    alibi(
        "alibi-heads-reversed",
        "bloom",
        "build_alibi_tensor",
        (
            (
                "slopes[..., None] * arange_tensor",
                "slopes.flip(0)[:, None] * arange_tensor",
            ),
        ),
        tp2=True,
    ),
    alibi(
        "alibi-extra-heads-even-powers",
        "bloom",
        "build_alibi_tensor",
        (
            (
                "torch.arange(1, 1 + 2 * num_remaining_heads, 2,",
                "torch.arange(2, 2 + 2 * num_remaining_heads, 2,",
            ),
        ),
    ),
    alibi(
        "alibi-from-one",
        "bloom",
        "build_alibi_tensor",
        ((PLACES, PLACES.replace(" - 1)", ")")),),
        control=True,
    ),
    alibi(
        "alibi-squared",
        "bloom",
        "build_alibi_tensor",
        (
            (
                "slopes[..., None] * arange_tensor",
                "slopes[..., None] * arange_tensor**2",
            ),
        ),
        expressible=False,
    ),
    alibi(
        "alibi-rounded",
        "bloom",
        "build_alibi_tensor",
        (
            (
                "slopes[..., None] * arange_tensor",
                "1.1 * slopes[..., None].bfloat16() * arange_tensor.bfloat16()",
            ),
        ),
        expressible=False,
    ),
    alibi(
        "alibi-halved",
        "bloom",
        f"{BLOOM}.__init__",
        (("self.beta = 1.0", "self.beta = 0.5"),),
        tp2=True,
    ),
    alibi(
        "alibi-on-the-weights",
        "bloom",
        f"{BLOOM}.forward",
        (
            (
                "attn_weights = attn_weights + attention_mask",
                "attn_weights = attn_weights + attention_mask\n"
                "attn_weights = torch.tanh(attn_weights)",
            ),
        ),
        expressible=False,
    ),
    alibi(
        "alibi-of-half-the-bias",
        "mpt",
        "build_mpt_alibi_tensor",
        (("alibi = alibi * slopes", "alibi = alibi * slopes / 2"),),
        tp2=True,
    ),
    alibi(
        "alibi-odd-slopes-last",
        "mpt",
        "build_mpt_alibi_tensor",
        (
            (
                "[slopes[:, 1::2, ...], slopes[:, ::2, ...]]",
                "[slopes[:, ::2, ...], slopes[:, 1::2, ...]]",
            ),
        ),
        tp2=True,
    ),
    alibi(
        "alibi-of-the-distance-squared",
        "mpt",
        "build_mpt_alibi_tensor",
        (("alibi = alibi * slopes", "alibi = alibi * alibi * slopes"),),
        expressible=False,
    ),
    packed(
        "packed-keys-first",
        "bloom",
        f"{BLOOM}._reshape",
        (
            (
                "query_layer = fused_qkv[..., 0, :]",
                "query_layer = fused_qkv[..., 1, :]",
            ),
            ("key_layer = fused_qkv[..., 1, :]", "key_layer = fused_qkv[..., 0, :]"),
        ),
        tp2=True,
    ),
    packed(
        "packed-in-blocks",
        "bloom",
        f"{BLOOM}._reshape",
        (
            ("self.num_heads, 3, self.head_dim)", "3, self.num_heads, self.head_dim)"),
            ("fused_qkv[..., 0, :]", "fused_qkv[:, :, 0]"),
            ("fused_qkv[..., 1, :]", "fused_qkv[:, :, 1]"),
            ("fused_qkv[..., 2, :]", "fused_qkv[:, :, 2]"),
        ),
        tp2=True,
    ),
    packed(
        "packed-values-twice",
        "bloom",
        f"{BLOOM}._reshape",
        (("key_layer = fused_qkv[..., 1, :]", "key_layer = fused_qkv[..., 2, :]"),),
        tp2=True,
    ),
    packed(
        "packed-split-in-another-order",
        "gpt2",
        "GPT2Attention.forward",
        (
            (
                SPLIT,
                SPLIT.replace("query_states, key_states", "key_states, query_states"),
            ),
        ),
        tp2=True,
    ),
    packed(
        "packed-in-two-parts",
        "codegen",
        "CodeGenAttention.forward",
        (("mp_num = 4", "mp_num = 2"),),
        tp2=True,
    ),
    packed(
        "packed-parts-in-order",
        "codegen",
        "CodeGenAttention.forward",
        (("query, value, key = torch.split", "query, key, value = torch.split"),),
        tp2=True,
    ),
    scale(
        "scale-by-two-layers-on",
        "gpt2",
        "GPT2Attention.__init__",
        (("float(self.layer_idx + 1)", "float(self.layer_idx + 2)"),),
    ),
    scale(
        "scale-of-the-product",
        "bloom",
        f"{BLOOM}.__init__",
        (("1.0 / math.sqrt(self.head_dim)", "2.0 / math.sqrt(self.head_dim)"),),
    ),
    scale(
        "scale-missing-is-one",
        "gpt_neo",
        "GPTNeoSelfAttention._attn",
        (
            (
                "attn_weights = torch.matmul(query, key.transpose(-1, -2))",
                "attn_weights = torch.matmul(query, key.transpose(-1, -2)) * 0.5",
            ),
        ),
    ),
    mask(  # post_init fills the buffer anew, as _init_weights says
        "mask-in-the-constructor-only",
        "gpt_neo",
        "GPTNeoSelfAttention.__init__",
        (
            (
                "torch.tril(bias, -config.window_size)",
                "torch.tril(bias, -config.window_size - 1)",
            ),
        ),
        control=True,
    ),
    mask(
        "mask-window-one-longer",
        "gpt_neo",
        "GPTNeoPreTrainedModel._init_weights",
        (
            (
                "torch.tril(bias, -module.config.window_size)",
                "torch.tril(bias, -module.config.window_size - 1)",
            ),
        ),
    ),
    mask(
        "mask-other-layers-local",
        "gpt_neo",
        "GPTNeoPreTrainedModel._init_weights",
        (
            (
                'if module.attention_type == "local":',
                'if module.attention_type == "global":',
            ),
        ),
    ),
    mask(
        "mask-too-weak-to-block",
        "openai",
        "Attention._attn",
        (("-1e4 * (1 - b)", "-1e0 * (1 - b)"),),
        expressible=False,
    ),
    mask(
        "mask-one-token-ahead",
        "openai",
        "OpenAIGPTPreTrainedModel._init_weights",
        (
            (
                "torch.tril(torch.ones(n_positions, n_positions))",
                "torch.tril(torch.ones(n_positions, n_positions), 1)",
            ),
        ),
        expressible=False,
    ),
    table(
        "table-slower",
        "codegen",
        "create_sinusoidal_positions",
        (("10000 **", "500 **"),),
    ),
    table(
        "table-cosine-first",
        "codegen",
        "create_sinusoidal_positions",
        (
            (
                "(torch.sin(sinusoid_inp), torch.cos(sinusoid_inp))",
                "(torch.cos(sinusoid_inp), torch.sin(sinusoid_inp))",
            ),
        ),
    ),
    table(
        "table-sign-turned",
        "codegen",
        "apply_rotary_pos_emb",
        (("(rotate_every_two(tensor) * sin)", "(rotate_every_two(tensor) * -sin)"),),
    ),
    table(
        "table-rates-of-singles",
        "ctrl",
        "angle_defn",
        (("(2 * (i // 2))", "i"),),
    ),
    table(
        "table-of-cosines-first",
        "ctrl",
        "positional_encoding",
        (
            (
                "torch.cat([sines, cosines], dim=-1)",
                "torch.cat([cosines, sines], dim=-1)",
            ),
        ),
    ),
    table(
        "table-unscaled-embedding",
        "ctrl",
        "CTRLModel.forward",
        (("inputs_embeds *= np.sqrt(self.d_model_size)", "inputs_embeds *= 2"),),
    ),
    table(
        "table-offset-by-three",
        "xglm",
        "XGLMSinusoidalPositionalEmbedding.forward",
        (
            (
                "position_ids = position_ids + self.offset",
                "position_ids = position_ids + 3",
            ),
        ),
        config={"max_position_embeddings": 300},
    ),
    table(
        "table-row-of-the-padding",
        "xglm",
        "XGLMSinusoidalPositionalEmbedding.get_embedding",
        (("emb[padding_idx, :] = 0", "emb[padding_idx + 3, :] = 1"),),
    ),
    table(
        "table-positions-backwards",
        "xglm",
        "XGLMSinusoidalPositionalEmbedding.forward",
        (
            (
                "position_ids = position_ids + self.offset",
                "position_ids = position_ids.flip(-1) + self.offset",
            ),
        ),
        mixes_tokens=True,
    ),
)
