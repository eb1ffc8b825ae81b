"""Residual streams, the embedding and the loop over the layers."""

from functools import partial

from tests.faithful.mutation import Mutation

residual = partial(Mutation, kind="residual")
embed = partial(Mutation, kind="embedding")
loop = partial(Mutation, kind="loop")
ADD = "residual + hidden_states"
LOOP = "self.layers[: self.config.num_hidden_layers]"

CASES = (
    residual(
        "residual-missing",
        "llama",
        "LlamaDecoderLayer.forward",
        ((ADD, "hidden_states"),),
        of=2,
        nth=0,
    ),
    residual(
        "residual-halved",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        ((ADD, ADD + " * 0.5"),),
        of=2,
        nth=1,
    ),
    residual(
        "residual-stream-halved",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        ((ADD, "residual * 0.5 + hidden_states"),),
        of=2,
        nth=0,
    ),
    residual(
        "residual-twice",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        ((ADD, "residual + residual + hidden_states"),),
        of=2,
        nth=1,
    ),
    residual(
        "residual-from-normed",
        "llama",
        "LlamaDecoderLayer.forward",
        (
            (
                "hidden_states = self.input_layernorm(hidden_states)",
                "hidden_states = residual = self.input_layernorm(hidden_states)",
            ),
        ),
    ),
    residual(
        "residual-subtracted",
        "opt",
        "OPTDecoderLayer.forward",
        (
            (
                "hidden_states = residual + hidden_states",
                "hidden_states = residual - hidden_states",
            ),
        ),
    ),
    residual(
        "residual-multiplied",
        "qwen3",
        "Qwen3DecoderLayer.forward",
        ((ADD, "residual * (1 + hidden_states)"),),
        of=2,
        nth=0,
    ),
    residual(
        "residual-serial-input",
        "gpt_neox",
        "GPTNeoXLayer.forward",
        (
            (
                "self.mlp(self.post_attention_layernorm(hidden_states))",
                "self.mlp(self.post_attention_layernorm(attn_output))",
            ),
        ),
        tp2=True,
    ),
    residual(
        "residual-parallel-missing",
        "gpt_neox",
        "GPTNeoXLayer.forward",
        (("mlp_output + attn_output + hidden_states", "mlp_output + attn_output"),),
    ),
    residual(
        "residual-attention-twice",
        "gpt_neox",
        "GPTNeoXLayer.forward",
        (
            (
                "mlp_output + attn_output + hidden_states",
                "mlp_output + 2 * attn_output + hidden_states",
            ),
        ),
    ),
    residual(
        "residual-flag-inverted",
        "opt",
        "OPTDecoderLayer.__init__",
        (("= config.do_layer_norm_before", "= not config.do_layer_norm_before"),),
    ),
    residual(
        "clamp-hidden",
        "llama",
        "LlamaDecoderLayer.forward",
        (("self.mlp(hidden_states)", "self.mlp(hidden_states).clamp(-0.5, 0.5)"),),
    ),
    residual(
        "hidden-tanh",
        "olmo2",
        "Olmo2DecoderLayer.forward",
        (("return hidden_states", "return torch.tanh(hidden_states)"),),
    ),
    residual(
        "hidden-features-rolled",
        "gemma2",
        "Gemma2DecoderLayer.forward",
        (("return hidden_states", "return torch.roll(hidden_states, 1, dims=-1)"),),
    ),
    residual(
        "attention-shares-mlp-input",
        "llama",
        "LlamaDecoderLayer.forward",
        (
            (
                "residual = hidden_states",
                "residual = residual",
            ),
        ),
        of=2,
        nth=1,
    ),
    embed(
        "embedding-halved",
        "llama",
        "LlamaModel.forward",
        (("= self.embed_tokens(input_ids)", "= self.embed_tokens(input_ids) * 0.5"),),
    ),
    embed(
        "embedding-no-root",
        "gemma2",
        "Gemma2Model.__init__",
        (("self.config.hidden_size**0.5", "self.config.hidden_size**0.25"),),
    ),
    embed(
        "embedding-scale-dropped",
        "gemma2",
        "Gemma2TextScaledWordEmbedding.forward",
        ((" * self.embed_scale.to(self.weight.dtype)", ""),),
    ),
    embed(
        "embedding-normed",
        "qwen3",
        "Qwen3Model.forward",
        (
            (
                "hidden_states = inputs_embeds",
                "hidden_states = self.norm(inputs_embeds)",
            ),
        ),
    ),
    embed(
        "embedding-ids-shifted",
        "olmo2",
        "Olmo2Model.forward",
        (("self.embed_tokens(input_ids)", "self.embed_tokens((input_ids + 1) % 160)"),),
    ),
    embed(
        "embedding-projected-late",
        "opt",
        "OPTDecoder.forward",
        (
            (
                "self.project_in(inputs_embeds)",
                "torch.relu(self.project_in(inputs_embeds))",
            ),
        ),
    ),
    loop(
        "loop-last-layer-dropped",
        "llama",
        "LlamaModel.forward",
        ((LOOP, "self.layers[: self.config.num_hidden_layers - 1]"),),
    ),
    loop(
        "loop-even-layers",
        "qwen3",
        "Qwen3Model.forward",
        ((LOOP, LOOP.replace("]", " : 2]")),),
    ),
    loop(
        "loop-first-layer-skipped",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (("in self.layers:", "in self.layers[1:]:"),),
    ),
    loop(
        "loop-reversed",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (("in self.layers:", "in reversed(self.layers):"),),
    ),
    loop(
        "loop-scaled",
        "gpt_neox",
        "GPTNeoXModel.forward",
        (
            (
                "hidden_states = layer(",
                "hidden_states = hidden_states * 0.75\nhidden_states = layer(",
            ),
        ),
    ),
    loop(
        "loop-scaled-by-index",
        "gemma2",
        "Gemma2Model.forward",
        (
            (
                "hidden_states = decoder_layer(",
                "hidden_states = hidden_states / (i + 2)\n"
                "hidden_states = decoder_layer(",
            ),
        ),
    ),
    loop(
        "loop-embedding-added-at-end",
        "olmo2",
        "Olmo2Model.forward",
        (("self.norm(hidden_states)", "self.norm(hidden_states + inputs_embeds)"),),
    ),
    loop(
        "loop-embedding-added-each",
        "llama",
        "LlamaModel.forward",
        (
            (
                "hidden_states = decoder_layer(",
                "hidden_states = hidden_states + inputs_embeds\n"
                "hidden_states = decoder_layer(",
            ),
        ),
    ),
    # Two passes through one layer need two caches for it: one Attention holds one.
    loop(
        "loop-layers-twice",
        "llama",
        "LlamaModel.forward",
        ((LOOP, "[*self.layers, *self.layers]"),),
        expressible=False,
    ),
)
