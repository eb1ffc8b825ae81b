"""A bias for every head that is repeated for every sequence of the batch."""

from porter.convert import convert
from tests.reference.sources import source_path, source_text

RESHAPED = "    return alibi.reshape(batch_size * num_heads, 1, seq_length).to(dtype)\n"
REPEATED = (
    "    alibi = slopes[:, None, None] * torch.arange(attention_mask.shape[-1])\n"
    "    return alibi.repeat(batch_size, 1, 1).to(dtype)\n"
)


def test_it_is_the_bias_of_the_head() -> None:
    """As Bloom has it since transformers 5.21."""
    text = source_text("bloom")
    assert text.count(RESHAPED) == 1
    port = convert(source_path("bloom"), text=text.replace(RESHAPED, REPEATED)).text
    assert port == convert(source_path("bloom")).text
