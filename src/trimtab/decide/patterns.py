"""Parameters by name: which of some patterns each one belongs to.

A pattern is, looked at in this order,

- the exact name of a parameter;
- a prefix of names that ends at a dot, written with the dot or without: `encoder` and `encoder.` match
  `encoder.0.weight` and not `encoders.weight`;
- a glob, if it has one of `* ? [`: `*` stands for anything, dots included.

Of several patterns that match a name the most specific wins: an exact name, then the one with the most
characters that are no wildcards, the dot at the end of a prefix among them; of two as long, the prefix.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

_WILD = re.compile(r"\[[^\]]*\]|[*?]")


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means this parameter.

    Example:
        >>> [matches(p, "encoder.0.weight") for p in ("encoder", "encoder.0.weight", "*.weight", "enc")]
        [True, True, True, False]
    """
    if pattern == name or name.startswith(pattern.rstrip(".") + "."):
        return True
    return _WILD.search(pattern) is not None and fnmatch.fnmatchcase(name, pattern)


def check_patterns(policy: str, patterns: Iterable[object]) -> tuple[str, ...]:
    """See that patterns are text that may match something.

    Args:
        policy: How the message begins, as "UnitClip(exclude".
        patterns: What is given.

    Returns:
        The patterns.

    Raises:
        TypeError: One is no text, or a text is given in place of several.
        ValueError: One is empty.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{policy}={patterns!r}): expected several patterns. Write ({patterns!r},).")
    found = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{policy}={pattern!r}): expected a name, a prefix or a glob as text.")
        if not pattern.strip("."):
            raise ValueError(f"{policy}={pattern!r}): expected a name, a prefix or a glob; '*' means all.")
        found.append(pattern)
    return tuple(found)


def check_all_match(policy: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """See that each pattern matches a parameter: a typo must not switch a rule off.

    Raises:
        ValueError: One does not; the message names close matches.
    """
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            close = difflib.get_close_matches(pattern, _candidates(names), n=3)
            hint = f" Close: {', '.join(map(repr, close))}." if close else ""
            raise ValueError(
                f"{policy}: no parameter of the optimizer matches {pattern!r}.{hint} A pattern is an exact "
                "name, a prefix that ends at a dot, or a glob with * ? []."
            )


def assigned(policy: str, patterns: Sequence[str], names: Sequence[str]) -> tuple[str | None, ...]:
    """The pattern of each name, the most specific that matches, or None.

    Args:
        policy: Whose patterns these are, for messages.
        patterns: What to choose from.
        names: Names of parameters.

    Raises:
        ValueError: A pattern matches no name, or none that another does not match more closely; or two
            globs match a name as closely.

    Example:
        >>> assigned("LayerClip", ["encoder", "*.bias"], ["encoder.weight", "encoder.bias", "head.bias"])
        ('encoder', 'encoder', '*.bias')
    """
    check_all_match(policy, patterns, names)
    chosen = tuple(_closest(policy, patterns, name) for name in names)
    for pattern in patterns:
        if pattern not in chosen:
            others = sorted({c for c, n in zip(chosen, names, strict=True) if c and matches(pattern, n)})
            raise ValueError(
                f"{policy}: all that {pattern!r} matches is matched more closely by "
                f"{', '.join(map(repr, others))}. Leave one of them out."
            )
    return chosen


def _closest(policy: str, patterns: Sequence[str], name: str) -> str | None:
    found = sorted((p for p in patterns if matches(p, name)), key=lambda p: _closeness(p, name))
    if len(found) > 1 and _closeness(found[-1], name) == _closeness(found[-2], name):
        raise ValueError(
            f"{policy}: {found[-1]!r} and {found[-2]!r} both match {name!r}, and neither more closely. "
            "Give that name, or a longer prefix, a pattern of its own."
        )
    return found[-1] if found else None


def _closeness(pattern: str, name: str) -> tuple[bool, int, bool]:
    is_prefix = name.startswith(pattern.rstrip(".") + ".")
    size = len(pattern.rstrip(".")) + 1 if is_prefix else len(_WILD.sub("", pattern))
    return pattern == name, size, is_prefix


def _candidates(names: Sequence[str]) -> list[str]:
    """All names and all prefixes of names."""
    found: dict[str, None] = {}
    for name in names:
        pieces = name.split(".")
        found.update(dict.fromkeys(".".join(pieces[:k]) for k in range(1, len(pieces) + 1)))
    return list(found)
