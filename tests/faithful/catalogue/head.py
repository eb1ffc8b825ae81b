"""From the last hidden state to the logits."""

from functools import partial

from tests.faithful.mutation import Mutation

case = partial(Mutation, kind="head")
HEAD = "self.lm_head(hidden_states[:, slice_indices, :])"

CASES = (
    case(
        "logits-doubled",
        "llama",
        "LlamaForCausalLM.forward",
        ((HEAD, HEAD + " * 2.0"),),
    ),
    case(
        "logits-divided-by-field",
        "qwen3",
        "Qwen3ForCausalLM.forward",
        ((HEAD, HEAD + " / self.config.num_attention_heads"),),
    ),
    case(
        "logits-shifted",
        "gpt_neox",
        "GPTNeoXForCausalLM.forward",
        ((HEAD, HEAD + " + 0.5"),),
    ),
    case(
        "logits-clamped",
        "olmo2",
        "Olmo2ForCausalLM.forward",
        ((HEAD, HEAD + ".clamp(-1.0, 1.0)"),),
    ),
    case(
        "logits-log-softmax",
        "llama",
        "LlamaForCausalLM.forward",
        ((HEAD, HEAD + ".log_softmax(-1)"),),
        tp2=True,
    ),
    case(
        "logits-centred",
        "opt",
        "OPTForCausalLM.forward",
        (
            (
                "logits = " + HEAD + ".contiguous()",
                "logits = "
                + HEAD
                + "\nlogits = logits - logits.mean(-1, keepdim=True)",
            ),
        ),
        tp2=True,
    ),
    case(
        "logits-capped",
        "llama",
        "LlamaForCausalLM.forward",
        ((HEAD, f"1.5 * torch.tanh({HEAD} / 1.5)"),),
    ),
    case(
        "head-input-scaled",
        "olmo2",
        "Olmo2ForCausalLM.forward",
        ((HEAD, HEAD.replace(":])", ":] * 0.25)")),),
    ),
    case(
        "head-input-normed",
        "qwen3",
        "Qwen3ForCausalLM.forward",
        ((HEAD, "self.lm_head(self.model.norm(hidden_states[:, slice_indices, :]))"),),
    ),
    case(
        "head-with-bias",
        "llama",
        "LlamaForCausalLM.__init__",
        (("config.vocab_size, bias=False", "config.vocab_size, bias=True"),),
        tp2=True,
    ),
    case(
        "head-projection-skipped-bias",
        "opt",
        "OPTDecoder.forward",
        (("self.project_out(hidden_states)", "self.project_out(hidden_states) + 0.3"),),
    ),
)
