"""Latent attention: what is compressed, rotated, expanded, cached."""

from functools import partial

from tests.faithful.mutation import Mutation

attend = partial(Mutation, kind="latent", model="youtu", where="YoutuAttention.forward")
expand = partial(
    Mutation, kind="latent", model="youtu", where="YoutuAttention.expand_kv"
)
choose = partial(
    Mutation,
    kind="latent",
    model="deepseek_v32",
    where="DeepseekV32Indexer.forward",
    expressible=False,
)
hide = partial(
    Mutation,
    kind="latent",
    model="deepseek_v32",
    where="DeepseekV32Attention.forward",
    expressible=False,
)
MOST = "topk = min(self.index_topk, index_scores.shape[-1])"
NORMED = "kv_nope = self.kv_a_layernorm(kv_nope)"
EXPANDED = "self.kv_b_proj(kv_nope)"
SPLIT = (
    "k_nope, value_states = "
    "torch.split(kv_nope, [self.qk_nope_head_dim, self.v_head_dim], dim=-1)"
)
SWAPPED = (
    "value_states, k_nope = "
    "torch.split(kv_nope, [self.v_head_dim, self.qk_nope_head_dim], dim=-1)"
)

SHARED = "k_rot.expand(-1, k_nope.shape[1], -1, -1)"
PARTS = (
    "key_states[..., : self.qk_nope_head_dim].copy_(k_nope)",
    "key_states[..., self.qk_nope_head_dim :].copy_(k_rot)",
)
TURNED = (
    "key_states[..., self.qk_rope_head_dim :].copy_(k_nope)",
    "key_states[..., : self.qk_rope_head_dim].copy_(k_rot)",
)

CASES = (
    attend("latent-not-normed", edits=((NORMED, "pass"),)),
    attend("latent-normed-twice", edits=((NORMED, f"{NORMED}\n{NORMED}"),), tp2=True),
    attend(
        "latent-key-not-rotated",
        edits=(
            (
                "query_states = torch.cat((q_pass, q_rot), dim=-1)",
                "query_states = torch.cat((q_pass, q_rot * 2), dim=-1)",
            ),
        ),
    ),
    attend(
        "latent-query-parts-swapped",
        edits=(
            (
                "torch.cat((q_pass, q_rot), dim=-1)",
                "torch.cat((q_rot, q_pass), dim=-1)",
            ),
        ),
    ),
    expand("latent-expanded-squared", edits=((EXPANDED, f"{EXPANDED}.square()"),)),
    expand(
        "latent-values-first",
        edits=(
            (
                SPLIT,
                SWAPPED,
            ),
        ),
        tp2=True,
    ),
    expand(
        "latent-shared-key-halved",
        edits=(
            (
                SHARED,
                f"0.5 * {SHARED}",
            ),
        ),
    ),
    attend(
        "latent-tanh", edits=((NORMED, f"{NORMED}\nkv_nope = torch.tanh(kv_nope)"),)
    ),
    expand("latent-doubled", edits=((EXPANDED, "self.kv_b_proj(2 * kv_nope)"),)),
    expand(
        "latent-values-halved",
        edits=((SPLIT, f"{SPLIT}\nvalue_states = 0.5 * value_states"),),
    ),
    expand(
        "latent-values-with-their-keys",
        edits=(
            (SPLIT, f"{SPLIT}\nvalue_states = value_states + k_nope.mean(-1, True)"),
        ),
    ),
    expand("latent-rotated-part-first", edits=tuple(zip(PARTS, TURNED, strict=True))),
    expand(
        "latent-shared-key-of-each-head",
        edits=((SHARED, f"{SHARED} + k_nope.mean(-1, True)"),),
        tp2=True,
    ),
    expand(
        "latent-less-the-mean",
        edits=(
            (EXPANDED, "self.kv_b_proj(kv_nope - kv_nope.mean(dim=2, keepdim=True))"),
        ),
        mixes_tokens=True,
    ),
    choose("index-one-less", edits=((MOST, f"{MOST} - 1"),)),
    choose("index-of-half", edits=((MOST, MOST.replace("])", "] // 2 + 1)")),)),
    choose("index-of-two", edits=((MOST, "topk = min(2, index_scores.shape[-1])"),)),
    choose(
        "index-of-the-smallest",
        expressible=True,
        control=True,
        edits=(("topk(topk, dim=-1)", "topk(topk, dim=-1, largest=False)"),),
    ),
    hide(
        "index-hides-what-it-chose",
        edits=(
            (
                ".scatter(-1, topk_indices.long(), False)",
                ".logical_not().scatter(-1, topk_indices.long(), True)",
            ),
        ),
    ),
)
