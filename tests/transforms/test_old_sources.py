"""What older and remote sources write otherwise: the same port, or a refusal."""

import pytest

from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD, splice
from tests.transforms.test_cases import port_of

PLAIN = SCAFFOLD.read_text("utf-8")
EINOPS = """
from einops import rearrange


class TernAttention:
    def forward(self, x, attention_mask, position_embeddings, past_key_values):
        shape = (*x.shape[:-1], -1, self.head_dim)
        query = rearrange(self.wq(x), "{pattern}", d=self.head_dim)
        key = self.wk(x).view(shape).transpose(1, 2)
        value = rearrange(self.wv(x), "b s (h d) -> b h s d", d=self.head_dim)
        cos, sin = (table[:, None] for table in position_embeddings)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key, value = past_key_values.update(key, value, self.layer_idx)
        output, _ = scores_to_output(
            self, query, key, value, attention_mask, scaling=self.scaling
        )
        return self.wo(rearrange(output, "b s h d -> b s (h d)"))
"""


def port(case: str) -> str:
    return port_of(splice(PLAIN, case)[0]).text


def test_einops_is_views() -> None:
    with_einops = port(EINOPS.format(pattern="b s (h d) -> b h s d"))
    assert with_einops == port_of(PLAIN).text


@pytest.mark.parametrize(
    "pattern", ["b s (d h) -> b h s d", "b s (h d) -> b s h d", "b s h -> b h s"]
)
def test_another_pattern_is_another_thing(pattern: str) -> None:
    try:
        text = port(EINOPS.format(pattern=pattern))
    except Refused:
        return
    assert text != port_of(PLAIN).text


def test_an_odd_layer_is_not_every_layer() -> None:
    case = """
class TernLayer:
    def forward(self, x, attention_mask, position_embeddings, past_key_values):
        x = x + self.attention(
            self.norm_1(x), attention_mask, position_embeddings, past_key_values
        )
        if bool(self.attention.layer_idx % 2):
            x = x * 2.0
        return x + self.mlp(self.norm_2(x))
"""
    text = port(case)
    assert "% 2" in text and "2.0" in text
    always = port(case.replace("if bool(self.attention.layer_idx % 2):", "if True:"))
    assert text != always
