"""vLLM 0.7: the contract of its guide "Implementing a Basic Model".

The engine passes the caches and the attention's metadata through every forward, the model
samples, rope takes base and scaling apart, and weights are loaded by a loop over the
stacked parameters.
"""

from porter.profiles import vllm_0_32
from porter.profiles.profile import Argument, Profile

_METADATA = Argument("attn_metadata", "AttentionMetadata", "attn_metadata")

_SKIPPED = (
    "vllm.model_executor.layers.fused_moe",
    "vllm.model_executor.layers.attention",
    "vllm.model_executor.models.utils",
    "vllm.model_executor.layers.activation",
    "vllm.sequence",
)
_IMPORTS = dict(sorted({
    "vllm.attention": ("Attention", "AttentionMetadata"),
    **{k: v for k, v in vllm_0_32.IMPORTS.items() if k not in _SKIPPED},
    "vllm.model_executor.layers.activation": ("GeluAndMul", "SiluAndMul", "get_act_fn"),
    "vllm.model_executor.layers.sampler": ("SamplerOutput", "get_sampler"),
    "vllm.model_executor.model_loader.weight_utils": (
        "default_weight_loader", "maybe_remap_kv_scale_name", "sharded_weight_loader",
    ),
    "vllm.model_executor.models.utils": (
        "PPMissingLayer", "WeightsMapper", "extract_layer_index",
        "is_pp_missing_parameter", "make_empty_intermediate_tensors_factory",
        "make_layers", "maybe_prefix",
    ),
    "vllm.model_executor.sampling_metadata": ("SamplingMetadata",),
    "vllm.sequence": ("IntermediateTensors",),
}.items()))  # fmt: skip

_LOADER = """\
    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        stacked_params_mapping = {stacked}
        params_dict = dict(self.named_parameters())
{buffers}        loaded_params: set[str] = set()
        for name, loaded_weight in {weights}:
            if "rotary_emb." in name and name not in params_dict:
                continue
{tied}            if self.quant_config is not None and (
                scale_name := self.quant_config.get_cache_scale(name)
            ):
                # a scale of the quantized cache
                param = params_dict[scale_name]
                weight_loader = getattr(param, "weight_loader", default_weight_loader)
                if loaded_weight.dim() != 0:
                    loaded_weight = loaded_weight[0]
                weight_loader(param, loaded_weight)
                loaded_params.add(scale_name)
                continue
            if name.endswith("scale") and name not in params_dict:
                name = maybe_remap_kv_scale_name(name, params_dict)
                if name is None:
                    continue
            for param_name, weight_name, shard_id in stacked_params_mapping:
                if weight_name not in name:
                    continue
                name = name.replace(weight_name, param_name)
                if name.endswith(".bias") and name not in params_dict:
                    break  # GPTQ adds biases that are zero
                if is_pp_missing_parameter(name, self):
                    break
                param = params_dict[name]
                param.weight_loader(param, loaded_weight, shard_id)
                loaded_params.add(name)
                break
            else:
                if name.endswith(".bias") and name not in params_dict:
                    continue
                if is_pp_missing_parameter(name, self):
                    continue
                param = params_dict[name]
                weight_loader = getattr(param, "weight_loader", default_weight_loader)
                weight_loader(param, loaded_weight)
                loaded_params.add(name)
        return loaded_params"""

_TIED = """\
            if self.config.tie_word_embeddings and name == "{head}.weight":
                continue
"""

_SAMPLE = """\
    def sample(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata
    ) -> SamplerOutput | None:
        return self.sampler(logits, sampling_metadata)"""

_ROPE_PARAMETERS = '''\
def rope_parameters_of(config) -> dict:
    """Base and scaling in one, whichever way this version of transformers keeps them."""
    found = getattr(config, "rope_parameters", None)
    if found is None:
        found = {"rope_type": "default", **(getattr(config, "rope_scaling", None) or {})}
        found["rope_theta"] = config.rope_theta
        if hasattr(config, "partial_rotary_factor"):
            found["partial_rotary_factor"] = config.partial_rotary_factor
    return found'''

_LAYER_WINDOW = '''\
def layer_window(cache_config, window: int | None) -> int | None:
    """Stop where vLLM would give a layer without a window the one of the config."""
    of_model = None if cache_config is None else cache_config.sliding_window
    if window is None and of_model is not None:
        raise ValueError("vLLM would give every layer the config's sliding window")
    return window'''

_ACT_AND_MUL = '''\
def get_act_and_mul_fn(name: str) -> nn.Module:
    """The activation of the first half times the second, by transformers' name."""
    if name in ("silu", "swish"):
        return SiluAndMul()
    if name in ("gelu", "gelu_pytorch_tanh"):
        return GeluAndMul(approximate="none" if name == "gelu" else "tanh")
    raise ValueError(f"activation {name!r} isn't supported")'''

PROFILE = Profile(
    release="0.7",
    measured="0.7.3",
    imports=_IMPORTS,
    embed="get_input_embeddings",
    model_arguments=(Argument("kv_caches", "list[torch.Tensor]"), _METADATA),
    layer_arguments=(
        Argument("kv_cache", "torch.Tensor", "kv_caches[layer_idx - self.start_layer]"),
        _METADATA,
    ),
    logits_arguments=(Argument("sampling_metadata", "SamplingMetadata"),),
    late_logits=False,
    contiguous_norms=True,
    rope='get_rope({head_size}, rotary_dim={head_size}, max_position={max_position}, '
    'base={parameters}["rope_theta"]{style}, rope_scaling={parameters})',
    rope_partial=', partial_rotary_factor={parameters}.get("partial_rotary_factor", 1.0)',
    rope_whole="{parameters}",
    rope_types=("default", "linear", "yarn", "llama3", "longrope"),
    yarn_lacks=("attention_factor", "mscale", "mscale_all_dim", "truncate"),
    window="layer_window(cache_config, {window})",
    loader=_LOADER,
    tied=_TIED,
    renames=False,
    lora_lists=True,
    head_lines=("self.sampler = get_sampler()",),
    methods=_SAMPLE,
    prepared={
        "rope_parameters": "config.rope_parameters = rope_parameters_of(config)",
        "sliding_window": 'if hasattr(config, "interleaved_sliding_window"):\n'
        "    # where vLLM puts it so that not every layer gets it\n"
        "    config.sliding_window = config.interleaved_sliding_window",
    },
    supplied={
        "rope_parameters_of": _ROPE_PARAMETERS,
        "layer_window": _LAYER_WINDOW,
        "get_act_and_mul_fn": _ACT_AND_MUL,
    },
)  # fmt: skip
