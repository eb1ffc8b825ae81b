"""Since transformers 5.24 generation hands the cache over as `cache`."""

import pytest

from porter.analyze import first_step
from porter.convert import convert
from porter.gap import Refused
from tests.reference.sources import source_path, source_text


def renamed(model: str) -> str:
    return source_text(model).replace("past_key_values", "cache")


@pytest.mark.parametrize("model", ["llama", "opt", "gemma2"])
def test_the_new_name_gives_the_same_port(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = convert(source_path(model)).text
    monkeypatch.setattr(first_step, "release_of", lambda root: (5, 24))
    assert convert(source_path(model), text=renamed(model)).text == expected
    # Code of a folder may be older than the transformers that runs it.
    assert convert(source_path(model)).text == expected


def test_arithmetic_of_later_steps_alone_is_seen_under_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(first_step, "release_of", lambda root: (5, 24))
    embedded = "inputs_embeds: torch.Tensor = self.embed_tokens(input_ids)"
    scaled = "if cache is not None: inputs_embeds = inputs_embeds * 2"
    text = renamed("llama")
    assert text.count(embedded) == 1
    with pytest.raises(Refused) as caught:
        margin = "\n" + " " * 12
        convert(
            source_path("llama"),
            text=text.replace(embedded, embedded + margin + scaled),
        )
    assert "a step with a cache computes something else" in str(caught.value)
