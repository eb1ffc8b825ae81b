"""A port of a renamed source loads the renamed checkpoint and computes the same."""

from pathlib import Path

import pytest

from porter.convert import convert
from tests.faithful.judge import TOLERANCE, run_port
from tests.metamorphic.run_variant import variant_logits
from tests.metamorphic.variants import PARAMETERS, VARIANTS, Variant
from tests.reference.sources import SIX, source_path, source_text
from tests.reference.tiny import prompts, rel_rmse

RENAMED = [v for v in VARIANTS if v.name in ("classes", "all names")]


@pytest.mark.parametrize("variant", [*RENAMED, PARAMETERS], ids=lambda v: v.name)
@pytest.mark.parametrize("model", SIX)
def test_runs_the_renamed_checkpoint(
    model: str, variant: Variant, tmp_path: Path
) -> None:
    text, names = variant.make(source_text(model))
    want = variant_logits(model, text, names, prompts(), tmp_path / "checkpoint")
    port = convert(source_path(model), text=text)
    file = tmp_path / port.file_name
    file.write_text(port.text, encoding="utf-8")
    got = run_port(file, tmp_path / "checkpoint", prompts(), 1)
    worst = max(rel_rmse(a, b) for a, b in zip(got, want, strict=True))
    assert worst <= TOLERANCE
