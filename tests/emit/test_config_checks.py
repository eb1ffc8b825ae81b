"""Which configs a port stops for: windows that the engine would give to every layer."""

import pytest

from porter.analyze.symbols import LAYER, Sym, config_field
from porter.emit.config_checks import window_check

WINDOW, TYPES, EVERY = (
    config_field(("config",), name)
    for name in ("sliding_window", "layer_types", "window_every")
)
SLIDING = Sym("eq", (Sym("item", (TYPES, LAYER)), "sliding_attention"))


def test_full_attention_stops_where_the_config_has_a_window() -> None:
    text = window_check(None)
    assert text is not None and "window is not None and window <" in text


@pytest.mark.parametrize(
    "window",
    [
        WINDOW,
        Sym("ifexp", (Sym("is_none", (WINDOW,)), None, WINDOW)),
        Sym("ifexp", (SLIDING, WINDOW, None)),
        128,
    ],
    ids=["the config's", "the config's if any", "by layer types", "a number"],
)
def test_windows_that_the_engine_has_too_need_no_check(window) -> None:
    assert window_check(window) is None


def test_a_window_in_some_layers_is_checked_where_there_is_none() -> None:
    some = Sym("ifexp", (Sym("eq", (Sym("mod", (LAYER, EVERY)), 0)), WINDOW, None))
    text = window_check(some)
    assert text is not None and "layer_idx % config.window_every" in text


def test_another_condition_than_that_there_is_one() -> None:
    other = Sym("ifexp", (Sym("truthy", (EVERY,)), WINDOW, None))
    assert window_check(other) is not None
