"""The import block of a generated file, from the names that its text uses."""

import re

from porter.profiles import RELEASES, profile_of
from porter.profiles.profile import Profile

# Names of vLLM's that no class of a port may have.
IMPORTED = frozenset(
    name
    for release in RELEASES
    for names in profile_of(release).imports.values()
    for name in names
)


def import_block(text: str, profile: Profile) -> str:
    """Imports of standard library, torch and vLLM for the names in text, in order."""
    words = set(
        re.findall(r"[A-Za-z_][A-Za-z_0-9]*", re.sub(r'"""(?s:.*?)"""', "", text))
    )
    standard = []
    if re.search(r"\bmath\.", text):
        standard.append("import math")
    if "re" in words and re.search(r"\bre\.(compile|search)\(", text):
        standard.append("import re")
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
    for module, names in profile.imports.items():
        used = [n for n in names if n in words]
        if used:
            vllm.append(f"from {module} import {', '.join(used)}")
    return "\n\n".join("\n".join(group) for group in (standard, torch, vllm) if group)
