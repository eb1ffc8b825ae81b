"""vLLM 0.32: the release that the bundled runtime is modelled on."""

from porter.profiles.profile import Profile

IMPORTS = {
    "vllm.compilation.decorators": ("support_torch_compile",),
    "vllm.config": ("CacheConfig", "VllmConfig", "get_current_vllm_config"),
    "vllm.distributed": (
        "get_pp_group", "get_tensor_model_parallel_rank",
        "get_tensor_model_parallel_world_size", "tensor_model_parallel_all_gather",
    ),
    "vllm.model_executor.layers.activation": ("get_act_and_mul_fn", "get_act_fn"),
    "vllm.model_executor.layers.attention": ("Attention", "MLAAttention"),
    "vllm.model_executor.layers.fused_moe": ("FusedMoEFactory", "MoERunner"),
    "vllm.model_executor.layers.layernorm": ("GemmaRMSNorm", "RMSNorm"),
    "vllm.model_executor.layers.linear": (
        "ColumnParallelLinear", "MergedColumnParallelLinear", "QKVParallelLinear",
        "ReplicatedLinear", "RowParallelLinear",
    ),
    "vllm.model_executor.layers.logits_processor": ("LogitsProcessor",),
    "vllm.model_executor.layers.quantization": ("QuantizationConfig",),
    "vllm.model_executor.layers.rotary_embedding": ("get_rope",),
    "vllm.model_executor.layers.vocab_parallel_embedding": (
        "ParallelLMHead", "VocabParallelEmbedding",
    ),
    "vllm.model_executor.model_loader.weight_utils": ("sharded_weight_loader",),
    "vllm.model_executor.models.interfaces": (
        "MixtureOfExperts", "SupportsLoRA", "SupportsPP", "SupportsQuant",
    ),
    "vllm.model_executor.models.utils": (
        "AutoWeightsLoader", "PPMissingLayer", "WeightsMapper", "extract_layer_index",
        "make_empty_intermediate_tensors_factory", "make_layers", "maybe_prefix",
    ),
    "vllm.model_executor.utils": ("set_weight_attrs",),
    "vllm.sequence": ("IntermediateTensors",),
}  # fmt: skip

LOADER = """\
    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loader = AutoWeightsLoader(self{tied}{unexpected})
        return loader.load_weights({weights}, mapper=self.hf_to_vllm_mapper)"""

PROFILE = Profile(
    release="0.32",
    measured="0.32.0",
    imports=IMPORTS,
    embed="embed_input_ids",
    rope="get_rope({head_size}, max_position={max_position}{style}, "
    "rope_parameters={parameters})",
    rope_whole='{{**{parameters}, "partial_rotary_factor": 1.0}}',
    rope_types=(
        "default",
        "linear",
        "dynamic",
        "yarn",
        "llama3",
        "longrope",
        "proportional",
    ),
    loader=LOADER,
    passed_on=("sinks",),
)
