"""What a caller may give as clip, detectors and remedy, told apart by what it can do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any


def check_policies(
    clip: object,
    detect: object,
    remedy: object,
    *,
    snapshots: object = None,
    cooldown: object = None,
    reference: object = None,
) -> None:
    """See that each policy is in its place.

    Args:
        clip: A clip or None.
        detect: A sequence of detectors.
        remedy: A remedy or None.
        snapshots: What a remedy that rewinds goes back to, or None.
        cooldown: A cool-down or None.
        reference: A closure or None.

    Raises:
        TypeError: Something else was given; the message says what is expected.
        ValueError: A remedy rewinds, and there are no snapshots; or it moves in the data, whose position
            is in none.

    Example:
        >>> check_policies(1.0, (), None)
        Traceback (most recent call last):
        TypeError: Guard(clip=1.0): expected a clip such as NormClip(1.0), or None to leave gradients alone.
    """
    if clip is not None:
        wanted = "a clip such as NormClip(1.0), or None to leave gradients alone"
        check_role("Guard(clip", clip, "rescale", wanted)
    if not isinstance(detect, Sequence) or isinstance(detect, str):
        raise TypeError(f"Guard(detect={detect!r}): expected a list of detectors, such as [Overflow(1e6)].")
    for detector in detect:
        check_role("Guard(detect", detector, "detect", "detectors such as Overflow(1e6)")
    if remedy is not None:
        check_role("Guard(remedy", remedy, "decide", "a remedy such as Skip(), or None to apply every step")
    if snapshots is not None:
        check_role("Guard(snapshots", snapshots, "take", "snapshots such as Snapshots(every=100), or None")
    if cooldown is not None:
        check_role("Guard(cooldown", cooldown, "factor_of", "CoolDown(factor=0.1, steps=100), or None")
    if reference is not None and not callable(reference):
        raise TypeError(f"Guard(reference={reference!r}): expected a closure as step() takes it, or None.")
    _check_rewinds(remedy, snapshots)


def _check_rewinds(remedy: object, snapshots: Any) -> None:
    rewinds = [part for part in parts(remedy) if hasattr(part, "skip_batches")]
    if rewinds and snapshots is None:
        raise ValueError(
            f"Guard(remedy={remedy!r}): it rewinds, and there is nothing to go back to. "
            "Pass snapshots=Snapshots(every=100) as well."
        )
    for rewind in rewinds:
        if rewind.skip_batches != 1 and not snapshots.data:
            raise ValueError(
                f"Guard(remedy={rewind!r}): it moves in the data, and no snapshot knows where those are. "
                "Set batches = Batches(loader), loop over that, and give Snapshots(also={'data': batches})."
            )


def parts(policy: object) -> Iterator[object]:
    """A policy and all policies it is made of.

    Args:
        policy: A policy, or a tuple or mapping of policies.
    """
    yield policy
    if is_dataclass(policy) and not isinstance(policy, type):
        for own in fields(policy):
            yield from parts(getattr(policy, own.name))
    elif isinstance(policy, tuple):
        for part in policy:
            yield from parts(part)
    elif isinstance(policy, Mapping):
        for part in policy.values():
            yield from parts(part)


def check_number(policy: str, **arguments: Any) -> None:
    """See that arguments are real numbers, before they are compared.

    Raises:
        TypeError: One is not.
    """
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{policy}({name}={value!r}): expected a number of Python, an int or a float.")


def check_positive(policy: str, **arguments: float) -> None:
    """See that arguments are finite and > 0; a `norm_type` may be inf.

    Raises:
        ValueError: One is not.
        TypeError: One is no number.
    """
    check_number(policy, **arguments)
    for name, value in arguments.items():
        if not value > 0 or (math.isinf(value) and name != "norm_type"):
            raise ValueError(f"{policy}({name}={value}): expected a finite number > 0.")


def check_factor(policy: str, factor: float) -> None:
    """See that a factor is finite and > 1.

    Raises:
        ValueError: It is not.
    """
    check_number(policy, factor=factor)
    if not (math.isfinite(factor) and factor > 1):
        raise ValueError(f"{policy}(factor={factor}): expected a finite number > 1.")


def check_alpha(policy: str, alpha: float) -> None:
    """See that the weight of the past is in (0, 1).

    Raises:
        ValueError: It is not.
    """
    check_number(policy, alpha=alpha)
    if not 0 < alpha < 1:
        raise ValueError(f"{policy}(alpha={alpha}): expected a number in (0, 1).")


def check_budget(policy: str, value: object, *, name: str = "budget", least: int = 0) -> None:
    """See that a count is a whole number.

    Raises:
        ValueError: It is not, or it is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{policy}({name}={value!r}): expected a whole number >= {least}.")


def check_role(role: str, given: object, method: str, expected: str) -> None:
    """See that what is given can do what its role asks for.

    Args:
        role: How the message begins, as "Guard(clip".
        given: What is given.
        method: What it must be able to do.
        expected: What to give, for the message.

    Raises:
        TypeError: It cannot; giving a class instead of an object is said to be that.
    """
    if isinstance(given, type) or not callable(getattr(given, method, None)):
        shown = given.__name__ if isinstance(given, type) else repr(given)
        hint = f" Did you mean {shown}()?" if isinstance(given, type) else ""
        raise TypeError(f"{role}={shown}): expected {expected}.{hint}")
