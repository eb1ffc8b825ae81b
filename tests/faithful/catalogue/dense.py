"""Dense decoders: their norms, rotations of pairs, multipliers and activations."""

from functools import partial

from tests.faithful.mutation import Mutation

norm = partial(Mutation, kind="norm")
rope = partial(Mutation, kind="rope")
scale = partial(Mutation, kind="scale")
mlp = partial(Mutation, kind="mlp")

NORMED = "(hidden_states - mean) * torch.rsqrt"
TURNED = "return torch.stack((-x2, x1), dim=-1).flatten(-2)"
MULTIPLIED = "hidden_states = residual + hidden_states * self.residual_multiplier"
GATED = "self.activation_fn(hidden_states[..., 0, :]) * hidden_states[..., 1, :]"
POSITIONED = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "llama_4_scaling_beta": 0.5,
    "original_max_position_embeddings": 8,
}

CASES = (
    norm(
        "layer-norm-two-plus-weight",
        "nemotron",
        "NemotronLayerNorm1P.forward",
        (("self.weight + 1.0", "self.weight + 2.0"),),
    ),
    norm(
        "layer-norm-larger-eps",
        "olmo",
        "OlmoLayerNorm.forward",
        (("eps=1e-5", "eps=1e-1"),),
    ),
    norm(
        "layer-norm-mean-kept",
        "cohere",
        "CohereLayerNorm.forward",
        ((NORMED, "hidden_states * torch.rsqrt"),),
        config={"use_qk_norm": True},
        tp2=True,
    ),
    norm(
        "head-norm-of-keys-left-out",
        "cohere",
        "CohereAttention.forward",
        (("key_states = self.k_norm(key_states)", "key_states = key_states * 1.5"),),
        config={"use_qk_norm": True},
        tp2=True,
    ),
    norm(
        "norm-behind-attention-doubled",
        "bitnet",
        "BitNetAttention.forward",
        (("self.attn_sub_norm(attn_output)", "2 * self.attn_sub_norm(attn_output)"),),
    ),
    rope(
        "pairs-turned-the-other-way",
        "helium",
        "rotate_half",
        ((TURNED, TURNED.replace("(-x2, x1)", "(x2, -x1)")),),
    ),
    rope(
        "pairs-swapped",
        "helium",
        "rotate_half",
        ((TURNED, TURNED.replace("(-x2, x1)", "(x1, -x2)")),),
    ),
    rope(
        "pairs-become-halves",
        "ernie4_5",
        "rotate_half",
        ((TURNED, "return torch.cat((-x2, x1), dim=-1)"),),
    ),
    rope(
        "rope-of-twice-the-width",
        "seed_oss",
        "SeedOssRotaryEmbedding.compute_default_rope_parameters",
        (("dtype=torch.float) / dim", "dtype=torch.float) / (2 * dim)"),),
    ),
    scale(
        "queries-scaled-by-position-twice",
        "ministral3",
        "get_llama_4_attn_scale",
        (("scaling = 1 + beta", "scaling = 1 + 2 * beta"),),
        config={"rope_parameters": POSITIONED},
    ),
    scale(
        "multiplier-on-the-residual",
        "hyperclovax",
        "HyperCLOVAXDecoderLayer.forward",
        ((MULTIPLIED, "hidden_states = residual * self.residual_multiplier"),),
        of=2,
        config={"residual_multiplier": 0.5},
    ),
    mlp(
        "halves-of-the-gate-exchanged",
        "moshi",
        "MoshiGatingMLP.forward",
        (
            (
                GATED,
                GATED.replace("0, :", "2, :")
                .replace("1, :", "0, :")
                .replace("2, :", "1, :"),
            ),
        ),
    ),
)
