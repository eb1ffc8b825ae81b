"""Layers that differ by index or type: which table, window or sink each one gets."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="layer types")
rotary = partial(case, model="gemma3")
sinks = partial(case, model="granite_swa", where="eager_attention_forward")
thetas = partial(case, model="granite_swa", where="GraniteSWAModel.forward")
MASKS = """"full_attention": create_causal_mask(**mask_kwargs),
                "sliding_attention": create_sliding_window_causal_mask(%s),"""
SWAPPED = """"sliding_attention": create_causal_mask(**mask_kwargs),
                "full_attention": create_sliding_window_causal_mask(%s),"""
TABLE = "position_embeddings=position_embeddings[self.config.layer_types[i]]"

CASES = (
    rotary(
        "types-first-layers-table",
        where="Gemma3TextModel.forward",
        edits=((TABLE, TABLE.replace("[i]", "[0]")),),
        tp2=True,
    ),
    rotary(
        "types-table-of-the-layer-before",
        where="Gemma3TextModel.forward",
        edits=((TABLE, TABLE.replace("[i]", "[i - 1]")),),
    ),
    rotary(
        "types-masks-swapped",
        where="Gemma3TextModel.forward",
        edits=((MASKS % "**sliding_mask_kwargs", SWAPPED % "**sliding_mask_kwargs"),),
    ),
    rotary(
        "types-base-of-its-own",
        where="Gemma3RotaryEmbedding.compute_default_rope_parameters",
        edits=(
            (
                'base = config.rope_parameters[layer_type]["rope_theta"]',
                'base = 3 * config.rope_parameters[layer_type]["rope_theta"]',
            ),
        ),
        tp2=True,
    ),
    rotary(
        "types-base-of-one-type",
        where="Gemma3RotaryEmbedding.compute_default_rope_parameters",
        edits=(
            (
                "config.rope_parameters[layer_type]",
                'config.rope_parameters["full_attention"]',
            ),
        ),
    ),
    rotary(
        "types-positions-halved",
        where="Gemma3RotaryEmbedding.forward",
        edits=(("position_ids[..., None].float()", "position_ids[..., None] / 2.0"),),
    ),
    rotary(
        "types-table-by-an-addition",
        where="Gemma3RotaryEmbedding.forward",
        edits=(("emb.cos() * attention_scaling", "emb.cos() + attention_scaling"),),
    ),
    rotary(
        "types-mean-over-the-tokens",
        where="Gemma3TextModel.forward",
        edits=(
            (
                "hidden_states = inputs_embeds",
                "hidden_states = inputs_embeds - inputs_embeds.mean(1, keepdim=True)",
            ),
        ),
        mixes_tokens=True,
    ),
    sinks(
        "sinks-the-other-way",
        edits=(("(lse - module.sinks.view", "(lse + module.sinks.view"),),
        either=True,
    ),
    sinks(
        "sinks-on-half-the-scores",
        edits=(("torch.logsumexp(attn_weights", "torch.logsumexp(attn_weights * 0.5"),),
        expressible=False,
    ),
    sinks(
        "sinks-gate-doubled",
        edits=(
            (
                "attn_output * sink_scale.unsqueeze(-1)",
                "attn_output * 2 * sink_scale.unsqueeze(-1)",
            ),
        ),
        either=True,
    ),
    sinks(
        "sinks-gate-of-the-heads-mean",
        edits=(
            (
                "(lse - module.sinks.view(1, -1, 1))",
                "(lse - module.sinks.mean(0, keepdim=True).view(1, -1, 1))",
            ),
        ),
        either=True,
    ),
    sinks(
        "sinks-left-out",
        edits=(("* sink_scale.unsqueeze(-1).to(attn_output.dtype)", "* 1.0"),),
        tp2=True,
    ),
    thetas(
        "thetas-small-ones-left-out",
        edits=(("[theta] if theta else None", "[theta] if theta > 100.0 else None"),),
    ),
    thetas(
        "thetas-of-the-layer-before",
        edits=(("layer_rope_theta[i]", "layer_rope_theta[i - 1]"),),
        tp2=True,
    ),
    thetas(
        "thetas-all-layers-rotate-alike",
        edits=(
            (
                "position_embeddings_by_theta[theta] if theta else None",
                "position_embeddings_by_theta[self.config.layer_rope_theta[0]]",
            ),
        ),
    ),
)
