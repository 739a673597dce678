"""The user's own networks: classes in the user's modules, named MODULE:CLASS."""

import dataclasses
import inspect

import flax.linen as nn

from cnn_jax.user_code import import_module, short_name


def import_network(name: str) -> type[nn.Module]:
    """Imports the class that MODULE:CLASS names, such as 'mynet:MyNet'.

    Raises ValueError if there is no such module or class, or if it is not a Linen
    module with a field num_classes.
    """
    module, attribute = import_module(name), short_name(name)
    network = getattr(module, attribute, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        classes = [key for key, value in vars(module).items()
                   if isinstance(value, type) and issubclass(value, nn.Module)]
        raise ValueError(
            f"network {name!r}: {module.__file__} has no Linen module {attribute}; it "
            f"has {', '.join(classes) or 'none'}")
    check_class(network)
    return network


def check_class(network: type[nn.Module]) -> None:
    """Raises ValueError for a class that cannot be used as a network.

    It needs the field num_classes, a default for each field, and a `__call__` that
    takes `train`.
    """
    fields = network.__dataclass_fields__
    if "num_classes" not in fields:
        raise ValueError(
            f"{network.__name__} has no field num_classes: it needs 'num_classes: int "
            "= 10', and a __call__(self, x, train) that returns logits "
            "[N, num_classes]")
    arguments = inspect.signature(network.__call__).parameters.values()
    if not any(argument.name == "train" or argument.kind is argument.VAR_KEYWORD
               for argument in arguments):
        raise ValueError(f"{network.__name__}.__call__ takes no train: it must be "
                         "__call__(self, x, train)")
    without = [name for name, field in fields.items() if field.init
               and field.default is field.default_factory is dataclasses.MISSING]
    if without:
        raise ValueError(f"{network.__name__} has fields without a default: "
                         f"{', '.join(without)}; give each of them one")
