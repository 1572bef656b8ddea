"""What a caller may give as clip, detectors and remedy, told apart by what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_policies(clip: object, detect: object, remedy: object) -> None:
    """See that each policy is in its place.

    Args:
        clip: A clip or None.
        detect: A sequence of detectors.
        remedy: A remedy or None.

    Raises:
        TypeError: Something else was given; the message says what is expected.

    Example:
        >>> check_policies(1.0, (), None)
        Traceback (most recent call last):
        TypeError: Guard(clip=1.0): expected a clip such as NormClip(1.0), or None to leave gradients alone.
    """
    if clip is not None:
        _check("clip", clip, "rescale", "a clip such as NormClip(1.0), or None to leave gradients alone")
    if not isinstance(detect, Sequence) or isinstance(detect, str):
        raise TypeError(f"Guard(detect={detect!r}): expected a list of detectors, such as [Overflow(1e6)].")
    for detector in detect:
        _check("detect", detector, "detect", "detectors such as Overflow(1e6)")
    if remedy is not None:
        _check("remedy", remedy, "decide", "a remedy such as Skip(), or None to apply every step")


def check_number(policy: str, **arguments: Any) -> None:
    """See that arguments are real numbers, before they are compared.

    Raises:
        TypeError: One is not.
    """
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{policy}({name}={value!r}): expected a number.")


def _check(role: str, given: object, method: str, expected: str) -> None:
    if isinstance(given, type) or not callable(getattr(given, method, None)):
        shown = given.__name__ if isinstance(given, type) else repr(given)
        hint = f" Did you mean {shown}()?" if isinstance(given, type) else ""
        raise TypeError(f"Guard({role}={shown}): expected {expected}.{hint}")
