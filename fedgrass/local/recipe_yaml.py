"""Reads YAML as the two nuclei do: without dates, each key once, and for Lite every scalar as a string."""

from __future__ import annotations

import yaml


def load_yaml(raw: bytes, *, scalars_are_strings: bool = False) -> object:
    """Read a YAML or JSON document. Raises yaml.YAMLError, UnicodeDecodeError or RecursionError."""
    # Both loaders are SafeLoaders: they make no objects but plain ones.
    return yaml.load(raw, _StringLoader if scalars_are_strings else _Loader)  # noqa: S506


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to configure a loader
        # `2020-01-25`, the version of the recipe format, is a string to Greengrass.
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1 and key != "<<"}
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(sorted(doubled))} is given twice", node.start_mark
            )
        return dict(super().construct_mapping(node, deep=deep))


class _StringLoader(_Loader):
    yaml_implicit_resolvers = {}  # noqa: RUF012
