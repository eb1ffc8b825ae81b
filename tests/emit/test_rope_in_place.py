"""vLLM's rope may rotate its operands in place: what is read beside it is copied."""

from pathlib import Path

import transformers

from porter.convert import convert

SOURCE = Path(transformers.__file__).parent / "models" / "llama" / "modeling_llama.py"
VALUES = "self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)"


def test_keys_that_are_the_values_too_are_copied() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count(VALUES) == 1
    port = convert(SOURCE, text=text.replace(VALUES, "key_states"))
    assert ".clone())" in port.text


def test_keys_of_their_own_are_not() -> None:
    assert ".clone()" not in convert(SOURCE).text
