"""Options in YAML, as recipes and `--config` files hold them."""

import yaml


def parse_options(text: str) -> dict:
    """A YAML mapping of nothing but numbers, texts, lists and mappings.

    Raises:
        ValueError: it is no such mapping, has a key twice, or an alias: a few lines of these can
            expand without end.
    """
    try:
        options = yaml.load(text, _Loader)
    except (yaml.YAMLError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(error) from None
    if not isinstance(options, dict):
        raise ValueError("expected a line `key: value` for each option")
    if odd := [key for key in options if not isinstance(key, str)]:
        raise ValueError(f"the key {odd[0]!r} is not the name of an option")
    return options


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("there is an alias, expected every value written out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise yaml.YAMLError(f"the key {key.value} occurs twice")
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)
