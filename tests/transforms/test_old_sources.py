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


OLD_CONFIG = """
class TernConfig(PreTrainedConfig):
    model_type = "tern"

    def __init__(
        self,
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        hidden_act="silu",
        max_position_embeddings=128,
        norm_eps=1e-6,
        attention_bias=False,
        rope_theta=10000.0,
        rope_scaling=None,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        self.attention_bias = attention_bias
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        super().__init__(**kwargs)


class TernRotaryEmbedding:
    def __init__(self, config: TernConfig):
        super().__init__()
        self.config = config
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        inv_freq = 1.0 / config.rope_theta ** (steps / config.head_dim)
        self.attention_scaling = 1.0
        self.scaling = 1.0
        if config.rope_scaling is not None and config.rope_scaling["type"] == "linear":
            self.scaling = config.rope_scaling["factor"]
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x, position_ids):
        angles = (position_ids[..., None].float() / self.scaling) * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
"""


def test_old_rope_fields_are_read_where_they_are_now() -> None:
    text = port(OLD_CONFIG)
    assert "rope_parameters=config.rope_parameters" in text
    assert "rope_theta" not in text and "rope_scaling" not in text


WINDOW = """
class TernAttention:
    def forward(self, x, attention_mask, position_embeddings, past_key_values):
        shape = (*x.shape[:-1], -1, self.head_dim)
        query = self.wq(x).view(shape).transpose(1, 2)
        key = self.wk(x).view(shape).transpose(1, 2)
        value = self.wv(x).view(shape).transpose(1, 2)
        cos, sin = (table[:, None] for table in position_embeddings)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key, value = past_key_values.update(key, value, self.layer_idx)
        q_len, k_len = query.shape[-2], key.shape[-2]
        keep = torch.ones(q_len, k_len, dtype=torch.bool).tril(k_len - q_len)
        if self.config.reach is not None:
            near = torch.ones(q_len, k_len, dtype=torch.bool)
            keep = keep & near.triu(k_len - q_len - self.config.reach)
        key, value = (repeat_heads(x, self.groups) for x in (key, value))
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        weights = torch.where(keep, scores, float("-inf")).softmax(-1)
        output = torch.matmul(weights, value).transpose(1, 2)
        return self.wo(output.reshape(*x.shape[:-1], -1))
"""


def test_a_size_of_a_config_without_types_may_be_none() -> None:
    """Its default is a number, but a checkpoint's config turns it off by None."""
    config = OLD_CONFIG.replace("**kwargs,\n", "reach=16,\n        **kwargs,\n", 1)
    config = config.replace(
        "super().__init__(**", "self.reach = reach\n        super().__init__(**", 1
    )
    text = port(config + WINDOW)
    assert "config.reach is None" in text and "config.reach + 1" in text
