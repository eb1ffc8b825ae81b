"""Masks that a source builds itself: proved causal, or refused; each also run in torch."""

import textwrap

import pytest
import torch

from porter.gap import Refused
from tests.transforms.cases import SCAFFOLD, splice
from tests.transforms.test_cases import port_of

ATTENTION = """\
def scores_to_output(module, query, key, value, attention_mask, scaling, **kwargs):
    key = repeat_heads(key, module.groups)
    value = repeat_heads(value, module.groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    q_len, k_len = query.shape[-2], key.shape[-2]
    low = torch.finfo(scores.dtype).min
    rows = (torch.arange(q_len) + (k_len - q_len)).view(-1, 1)
    cols = torch.arange(k_len)
{recipe}
    weights = nn.functional.softmax(scores, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2), weights
"""
TRIANGLE = "torch.tril(torch.ones((64, 64), dtype=torch.bool))"
OLD_MASK = """
mask = torch.full((q_len, q_len), low)
cond = torch.arange(mask.size(-1))
mask.masked_fill_(cond < (cond + 1).view(mask.size(-1), 1), 0)
"""

CAUSAL = {
    "where": f"""
        keep = {TRIANGLE}[k_len - q_len : k_len, :k_len]
        scores = torch.where(keep, scores, torch.tensor(low))""",
    "times": f"""
        b = {TRIANGLE}.view(1, 1, 64, 64)[:, :, k_len - q_len : k_len, :k_len].float()
        scores = scores * b - 1e4 * (1 - b)""",
    "one_longer": """
        mask = torch.full((q_len, k_len + 1), fill_value=low)
        if q_len != 1:
            mask = torch.triu(mask, diagonal=1)
        mask *= torch.arange(k_len + 1) > rows.reshape(-1, 1)
        mask = mask[None, None, :, :].expand(scores.shape[0], 1, -1, -1)
        scores = scores + mask[:, :, :, :k_len]""",
    "zeros_before": OLD_MASK
    + """
if k_len - q_len > 0:
    mask = torch.cat([torch.zeros(q_len, k_len - q_len), mask], dim=-1)
scores = scores + mask[None, None]""",
    "filled": """
        later = torch.ones(q_len, k_len, dtype=torch.bool).triu(k_len - q_len + 1)
        scores = scores.masked_fill(later, float("-inf"))""",
    "one_token_needs_none": """
        if q_len > 1:
            later = torch.ones(q_len, k_len, dtype=torch.bool).triu(k_len - q_len + 1)
            scores = scores.masked_fill_(later, float("-inf"))""",
    "another_name_is_not_read": """
        mask = torch.zeros(q_len, k_len)
        other = mask
        mask.masked_fill_(cols > rows, low)
        scores = scores + mask""",
    "logic": """
        keep = torch.logical_not(torch.gt(cols, rows))
        scores = torch.where(keep | (cols == rows), scores, low)
        scores = torch.max(scores, torch.tensor(low))""",
    "inverted": """
        keep = (cols[None, :] <= rows).float()
        inverted = 1.0 - keep
        mask = inverted.masked_fill(inverted.to(torch.bool), low)
        scores = scores + mask""",
    "twice": """
        scores = scores + (cols > rows) * low
        scores = scores.masked_fill(~(rows >= cols), low)""",
}
WINDOWED = {
    "and": """
        keep = (cols <= rows) & (cols > rows - 8)
        scores = torch.where(keep, scores, low)""",
    "xor": f"""
        keep = torch.bitwise_xor({TRIANGLE}, torch.tril({TRIANGLE}, -8))
        scores = torch.where(keep[k_len - q_len : k_len, :k_len], scores, low)""",
    "triangles": """
        ones = torch.ones(q_len, k_len)
        past = k_len - q_len
        keep = torch.tril(ones, diagonal=past) * torch.triu(ones, diagonal=past - 7)
        scores = scores.masked_fill(keep == 0, low)""",
}
REFUSED = {
    "one_too_far": f"""
        keep = torch.tril({TRIANGLE}.float() + 1, diagonal=1)
        keep = keep[k_len - q_len : k_len, :k_len]
        scores = scores.masked_fill(keep == 0, low)""",
    "not_itself": f"""
        keep = torch.tril({TRIANGLE}, diagonal=-1)[k_len - q_len : k_len, :k_len]
        scores = scores.masked_fill(~keep, low)""",
    "without_the_cached": """
        keep = torch.ones(q_len, k_len, dtype=torch.bool).tril()
        scores = scores.masked_fill(~keep, low)""",
    "not_enough": """
        scores = scores + (cols > rows) * -100.0""",
    "reversed": """
        scores = scores.masked_fill(cols < rows, low)""",
    "upper": """
        later = torch.ones(q_len, k_len, dtype=torch.bool).triu(k_len - q_len + 1)
        scores = torch.where(later, scores, low)""",
    "a_hole": """
        keep = (cols <= rows) & (rows - cols != 3)
        scores = torch.where(keep, scores, low)""",
    "far_only": """
        keep = (cols <= rows) & (rows - cols >= 8)
        scores = torch.where(keep, scores, low)""",
    "by_value": """
        scores = scores.masked_fill((cols > rows) | (scores > 0), low)""",
    "nearer_counts_more": """
        scores = torch.where(cols <= rows, scores + (cols == rows) * 0.5, low)""",
    "zero_is_no_mask": """
        scores = scores * (cols <= rows)""",
    "two_tokens_need_one": """
        if q_len > 2:
            scores = scores.masked_fill(cols > rows, low)""",
    "transposed": OLD_MASK
    + """
mask = mask.transpose(0, 1)
if k_len - q_len > 0:
    mask = torch.cat([torch.zeros(q_len, k_len - q_len), mask], dim=-1)
scores = scores + mask""",
    "blocks": """
        keep = (cols <= rows) & (cols // 8 == rows // 8)
        scores = torch.where(keep, scores, low)""",
    "scaled_by_position": """
        scores = torch.where(cols <= rows, scores * (cols + 1), low)""",
    "first_always": """
        keep = (cols <= rows) & ((cols > rows - 8) | (cols == 0))
        scores = torch.where(keep, scores, low)""",
    "seen_by_another_name": """
        mask = torch.zeros(q_len, k_len)
        other = mask
        mask.masked_fill_(cols > rows, low)
        scores = scores + other""",
}


def source(recipe: str) -> str:
    body = textwrap.indent(textwrap.dedent(recipe).strip("\n"), "    ")
    text = splice(SCAFFOLD.read_text("utf-8"), ATTENTION.format(recipe=body))[0]
    return text


def weights(recipe: str, q_len: int, k_len: int) -> torch.Tensor:
    """softmax of random scores under the recipe, in torch."""
    torch.manual_seed(q_len + 100 * k_len)
    names = {
        "torch": torch,
        "q_len": q_len,
        "k_len": k_len,
        "low": torch.finfo(torch.float32).min,
        "rows": (torch.arange(q_len) + (k_len - q_len)).view(-1, 1),
        "cols": torch.arange(k_len),
        "scores": torch.randn(1, 2, q_len, k_len),
    }
    exec(textwrap.dedent(recipe), names)
    return names["scores"].softmax(-1)


def wanted(q_len: int, k_len: int, window: int | None) -> str:
    """The recipe of a causal mask, with the window."""
    keep = "cols <= rows" + (f"\nkeep &= rows - cols < {window}" if window else "")
    return f"keep = {keep}\nscores = scores.masked_fill(~keep, low)"


SIZES = [(1, 1), (2, 2), (5, 5), (20, 20), (1, 13), (3, 4), (7, 20), (16, 30)]


def is_causal(recipe: str, window: int | None) -> bool:
    return all(
        torch.equal(weights(recipe, q, k), weights(wanted(q, k, window), q, k))
        for q, k in SIZES
    )


@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str) -> None:
    assert is_causal(CAUSAL[name], None)
    library = port_of(source("scores = scores + attention_mask"))
    assert port_of(source(CAUSAL[name])).text == library.text


@pytest.mark.parametrize("name", WINDOWED)
def test_windowed(name: str) -> None:
    assert is_causal(WINDOWED[name], 8)
    assert "per_layer_sliding_window=8," in port_of(source(WINDOWED[name])).text


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    if name != "seen_by_another_name":
        assert not is_causal(REFUSED[name], None)
        assert not is_causal(REFUSED[name], 8)
    with pytest.raises(Refused, match=r"causal mask|in-place change"):
        port_of(source(REFUSED[name]))
