"""Configs inside a config, in small: a model may keep its experts' sizes in one of its own.

A nested config gets tiny sizes by the names of its fields, as the outer one does. Some
classes lack fields by default that every published config of theirs has, and without
which the model doesn't run; they are tried when the plain one has been.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# What published configs of attention say and their classes by default don't.
_PUBLISHED = {"rope_theta": 10000.0, "clip_qkv": 1.0}


def nested_sizes(
    config: Any, fields: Callable[[type, Any], Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each nested config of a default `config` the fields that make it tiny.

    fields(config class, its default): those of one config.
    """
    parts = {name: getattr(config, name, None) for name in _names(config)}
    return {
        name: dict(fields(type(part), part))
        for name, part in parts.items()
        if hasattr(part, "to_dict")
    }


def completed(config: Any) -> Iterator[Any]:
    """The config, and again with what its nested configs of attention lack."""
    yield config
    full = copy.deepcopy(config)
    lacking = [
        (part, name)
        for part in (getattr(full, name, None) for name in _names(full))
        if hasattr(part, "clip_qkv")
        for name in _PUBLISHED
        if getattr(part, name, None) is None
    ]
    for part, name in lacking:
        setattr(part, name, _PUBLISHED[name])
    if lacking:
        yield full


def _names(config: Any) -> list[str]:
    return list(getattr(config, "sub_configs", None) or {})
