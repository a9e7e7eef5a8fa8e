"""YAML from strangers: checked as text before a library turns it into values."""

from __future__ import annotations

from pathlib import Path

import yaml

from primia.untrusted.files import Unusable, printable, read_file

LIMIT = 256 * 2**10
"""Bytes of the largest file."""

_DEEPEST = 20
_OPENS = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken, yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
_CLOSES = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
_REFUSED = {
    yaml.AnchorToken: "an anchor",
    yaml.AliasToken: "an alias",
    yaml.TagToken: "a tag",
    yaml.DirectiveToken: "a directive",
}
"""Aliases of aliases stand for more values than any memory holds; this project's files have none of these."""


def check_yaml(path: Path) -> None:
    """Look a YAML file through before it is loaded.

    Raises:
        OSError: it cannot be read.
        Unusable: a link, too large, nested too deep, no YAML, or with anchors, aliases or tags.
    """
    depth = 0
    try:
        for token in yaml.scan(read_file(path, LIMIT), Loader=yaml.SafeLoader):
            depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
            if type(token) in _REFUSED:
                raise Unusable(f"holds {_REFUSED[type(token)]}, which does not belong there")
            if depth > _DEEPEST:
                raise Unusable(f"nested more than {_DEEPEST} levels deep")
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise Unusable(f"no YAML: {printable(error, 100)}") from None
