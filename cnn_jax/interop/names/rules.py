"""Defines how a library names the layers of one family of our networks."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from cnn_jax.interop.names.layouts import Layout, Shape

LayerName = Callable[[nn.Module, str], str]  # (network, our layer's path) -> theirs


class Names(NamedTuple):
    """Holds the names of a family of networks in a library.

    layer: maps one of our networks and the path of one of its layers to their name.
    kernels: our layers whose kernels have another layout than the library's usual one.
    optional: a pattern of keys that a file may hold and our network may lack: the
        auxiliary heads.
    order: sorts our layers as the library lists them, if that is not their order here.
    """

    layer: LayerName
    kernels: dict[str, Callable[[Shape], Layout]] = {}
    optional: str = ""
    order: Callable[[list[str]], list[str]] = list


def by_rules(*rules: tuple[str, str | Callable[..., str]]) -> LayerName:
    """Makes a function from (pattern of our path, template of theirs) pairs.

    A template is that of `re.Match.expand`, or a function of the pattern's groups.
    """
    def name(network: nn.Module, path: str) -> str:
        for pattern, template in rules:
            if match := re.fullmatch(pattern, path):
                return (template(*match.groups()) if callable(template)
                        else match.expand(template))
        raise KeyError(path)
    return name


def groups(pattern: str, path: str) -> tuple[str, ...]:
    """Splits our path by a pattern. Raises KeyError if it does not match."""
    match = re.fullmatch(pattern, path)
    if match is None:
        raise KeyError(path)
    return match.groups()


def shifted(template: str, *shifts: int) -> Callable[..., str]:
    """Makes a template that adds `shifts` to the first groups of a match."""
    def name(*groups: Any) -> str:
        numbers = [int(group) + shift for group, shift in zip(groups, shifts)]
        return template.format(*numbers, *groups[len(shifts):])
    return name
