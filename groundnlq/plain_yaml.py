"""YAML that holds values and nothing else: it never runs, refers to itself, or says a thing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from groundnlq.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; tags, aliases and duplicate keys are refused.

    Raises:
        FileNotFoundError: no such file, whose remedy the caller knows.
        ConfigError: unreadable, not plain YAML, or no mapping.
    """
    try:
        tree = parse_plain(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror} -- name a preset or a file") from None
    except RecursionError:
        raise ConfigError(f"{path}: not plain YAML -- nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not plain YAML -- {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, not {type(tree).__name__}")
    return tree


def parse_plain(text: str) -> Any:
    """The value that a YAML text spells; raises `yaml.YAMLError` for what is more than a value."""
    return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader, narrowed further


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, _ in node.value:
            name = repr(self.construct_object(key, deep=True))
            if name in seen:
                raise yaml.YAMLError(f"key {name} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)
