"""vLLM 0.26: as 0.32, but the loader must be told to skip a tied head, and yarn reads
fewer parameters."""

from dataclasses import replace

from porter.profiles import vllm_0_32

# Ports for this release have neither latent caches nor experts.
_LATER = {"MLAAttention", "MixtureOfExperts", "MoERunner", "get_current_vllm_config"}

PROFILE = replace(
    vllm_0_32.PROFILE,
    imports={
        module: tuple(name for name in names if name not in _LATER)
        for module, names in vllm_0_32.IMPORTS.items()
    },
    release="0.26",
    measured="0.26.0",
    rope_types=tuple(t for t in vllm_0_32.PROFILE.rope_types if t != "proportional"),
    without=("substitute_latent",),
    yarn_lacks=("attention_factor", "mscale", "mscale_all_dim"),
    tied=', skip_prefixes=["{head}.weight"] if self.config.tie_word_embeddings else None',
)
