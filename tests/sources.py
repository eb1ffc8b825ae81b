"""The sources that many tests convert: six of transformers, and our own fixtures."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Six shapes of the problem among the models of the installed transformers.
SIX = ("opt", "llama", "qwen3", "gemma2", "gpt_neox", "olmo2")

# Each has its whole port beside it in expected.py, or its gaps in refused.txt.
FIXTURES = tuple(sorted(path.name for path in (ROOT / "fixtures/models").iterdir()))
PORTED = tuple(
    name
    for name in FIXTURES
    if not (ROOT / "fixtures/models" / name / "refused.txt").exists()
)


def fixture_file(name: str) -> str:
    """The fixture's modeling file, from the repository's root."""
    return f"fixtures/models/{name}/modeling_{name}.py"
