"""The import block of a generated file, from the names that its text uses."""

import re

_VLLM = {
    "vllm.compilation.decorators": ["support_torch_compile"],
    "vllm.config": ["CacheConfig", "VllmConfig"],
    "vllm.distributed": [
        "get_pp_group", "get_tensor_model_parallel_rank",
        "get_tensor_model_parallel_world_size", "tensor_model_parallel_all_gather",
    ],
    "vllm.model_executor.layers.activation": ["get_act_and_mul_fn", "get_act_fn"],
    "vllm.model_executor.layers.attention": ["Attention"],
    "vllm.model_executor.layers.fused_moe": ["FusedMoEFactory"],
    "vllm.model_executor.layers.layernorm": ["GemmaRMSNorm", "RMSNorm"],
    "vllm.model_executor.layers.linear": [
        "ColumnParallelLinear", "MergedColumnParallelLinear", "QKVParallelLinear",
        "ReplicatedLinear", "RowParallelLinear",
    ],
    "vllm.model_executor.layers.logits_processor": ["LogitsProcessor"],
    "vllm.model_executor.layers.quantization": ["QuantizationConfig"],
    "vllm.model_executor.layers.rotary_embedding": ["get_rope"],
    "vllm.model_executor.layers.vocab_parallel_embedding": [
        "ParallelLMHead", "VocabParallelEmbedding",
    ],
    "vllm.model_executor.model_loader.weight_utils": ["sharded_weight_loader"],
    "vllm.model_executor.models.interfaces": [
        "SupportsLoRA", "SupportsPP", "SupportsQuant",
    ],
    "vllm.model_executor.models.utils": [
        "AutoWeightsLoader", "PPMissingLayer", "WeightsMapper", "extract_layer_index",
        "make_empty_intermediate_tensors_factory", "make_layers", "maybe_prefix",
    ],
    "vllm.model_executor.utils": ["set_weight_attrs"],
    "vllm.sequence": ["IntermediateTensors"],
}  # fmt: skip


IMPORTED = frozenset(name for names in _VLLM.values() for name in names)


def import_block(text: str) -> str:
    """Imports of standard library, torch and vLLM for the names in text, in order."""
    words = set(
        re.findall(r"[A-Za-z_][A-Za-z_0-9]*", re.sub(r'"""(?s:.*?)"""', "", text))
    )
    standard = []
    if re.search(r"\bmath\.", text):
        standard.append("import math")
    if "re" in words and re.search(r"\bre\.compile", text):
        standard.append("import re")
    if re.search(r"\bmath\.", text):
        standard.append("import math")
    if "Iterable" in words:
        standard.append("from collections.abc import Iterable")
    if "islice" in words:
        standard.append("from itertools import islice")
    torch = []
    if "torch" in words:
        torch.append("import torch")
    if re.search(r"\bF\.", text):
        torch.append("import torch.nn.functional as F")
    if "nn" in words:
        torch.append("from torch import nn")
    vllm = []
    for module, names in _VLLM.items():
        used = [n for n in names if n in words]
        if used:
            vllm.append(f"from {module} import {', '.join(used)}")
    return "\n\n".join("\n".join(group) for group in (standard, torch, vllm) if group)
