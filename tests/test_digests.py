"""Ports of transformers' own files: their digest and structure, not their text.

What is made from transformers' files may not be committed, so the golden holds a
SHA-256 and what a person can review: classes, fused layers and the weight map.
"""

import hashlib
import json
from importlib.metadata import version

import pytest

from porter.convert import convert
from porter.profiles import RELEASES
from tests.conftest import ROOT, CompareGolden
from tests.sources import SIX


@pytest.mark.parametrize("model_type", SIX)
def test_port_of_transformers_model(
    model_type: str, compare_golden: CompareGolden
) -> None:
    port = convert(model_type)
    summary = {
        "architecture": port.architecture,
        "file_name": port.file_name,
        "sha256": {
            release: hashlib.sha256(
                convert(model_type, profile=release).text.encode()
            ).hexdigest()
            for release in RELEASES
        },
        "lines": port.text.count("\n"),
        "classes": port.report["classes"],
        "fused": port.report["fused"],
        "weights": port.report["weights"],
    }
    folder = ROOT / "tests/goldens" / f"transformers-{version('transformers')}"
    text = json.dumps(summary, indent=2) + "\n"
    compare_golden(folder / f"{model_type}.json", text)
