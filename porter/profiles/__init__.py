"""The vLLM releases that ports can be written for: one file of data each."""

from porter.gap import UsageError
from porter.profiles import vllm_0_7, vllm_0_26, vllm_0_32
from porter.profiles.profile import Profile

_PROFILES = {
    p.release: p for p in (vllm_0_7.PROFILE, vllm_0_26.PROFILE, vllm_0_32.PROFILE)
}
RELEASES = tuple(_PROFILES)
DEFAULT = RELEASES[-1]


def profile_of(release: str) -> Profile:
    """Raises UsageError for a release that there is no profile for."""
    if release not in _PROFILES:
        known = ", ".join(RELEASES)
        raise UsageError(f"unknown vLLM release {release!r}: {known}")
    return _PROFILES[release]
