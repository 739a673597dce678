"""Lets `--config.FIELD=none` set a field of any type to None, which means "not set"."""

from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

PARSERS = {int: flags.IntegerParser(), float: flags.FloatParser(),
           str: flags.ArgumentParser(), tuple: TupleParser()}


class NoneOr(flags.ArgumentParser):
    """Parses 'none' as None, and everything else with another parser."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self.parser = parser
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, str) and argument.lower() == "none":
            return None
        return self.parser.parse(argument)

    def flag_type(self) -> str:
        return self.parser.flag_type()


def accept_none() -> None:
    """Registers the parsers with ml_collections; call it before flags are parsed."""
    for kind, parser in PARSERS.items():
        config_flags.register_flag_parser_for_type(kind, NoneOr(parser))
