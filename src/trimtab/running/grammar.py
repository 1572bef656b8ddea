"""Policies as they are written on a command line: `norm:1.0`, `skip:10`, `loss-spike:z=5`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from trimtab import act
from trimtab.decide import CoolDown, Rewind, SpikeRule, parts
from trimtab.decide.rebuild import CLIPS, DETECTORS, REMEDIES, policy_from_repr
from trimtab.running.watch import Policies

_REQUIRED = object()

# Types of arguments that are made of more than one value, as they are annotated
_COMPOSED = ("Clip[", "Remedy[", "Condition[", "Mapping[", "tuple[")

# The arguments of Snapshots that are numbers: those of several optimizers cannot share a folder
_SNAPSHOTS = {"every": 100, "keep": 3, "memory_budget_bytes": None}


def clip_from_text(text: str) -> Any:
    """A clip, or None for `none`.

    A policy is `NAME`, or `NAME:VALUE,...,KEY=VALUE,...` with the values in the order of its arguments; or
    its call in Python, which is needed for policies made of others. Text is parsed, never evaluated.

    Args:
        text: The text.

    Raises:
        ValueError: There is no such clip, or it does not take these arguments; the message lists what is
            allowed.

    Example:
        >>> from trimtab.running import clip_from_text
        >>> clip_from_text("norm:1.0")
        NormClip(max_norm=1.0, norm_type=2.0)
        >>> clip_from_text("AfterWarmup(QuantileClip(10.0), steps=100)").steps
        100
        >>> clip_from_text("norm:1.0,size=2")
        Traceback (most recent call last):
        ValueError: norm:1.0,size=2: 'norm' takes no 'size'. It takes max_norm, norm_type=2.
    """
    return _from_text(text, CLIPS, "clip")


def detector_from_text(text: str) -> Any:
    """A detector; written as a clip is. `loss-spike` and `norm-spike` take the arguments of `SpikeRule`.

    Args:
        text: The text.

    Raises:
        ValueError: As `clip_from_text`.

    Example:
        >>> from trimtab.running import detector_from_text
        >>> detector_from_text("loss-spike:z=5").rule.z
        5
    """
    return _from_text(text, DETECTORS, "detector")


def remedy_from_text(text: str) -> Any:
    """A remedy, or None for `none`; written as a clip is.

    Args:
        text: The text.

    Raises:
        ValueError: As `clip_from_text`.

    Example:
        >>> from trimtab.running import remedy_from_text
        >>> remedy_from_text("skip:10")
        Skip(budget=10)
    """
    return _from_text(text, REMEDIES, "remedy")


def cooldown_from_text(text: str) -> Any:
    """A `CoolDown` from its arguments alone, as in `0.1,steps=50`.

    Args:
        text: The text.

    Raises:
        ValueError: It does not take these arguments.

    Example:
        >>> from trimtab.running import cooldown_from_text
        >>> cooldown_from_text("0.5,steps=50")
        CoolDown(factor=0.5, steps=50)
    """
    return _call(text, "cooldown", CoolDown, *_arguments(text))


def snapshots_from_text(text: str) -> Callable[[], act.Snapshots]:
    """What makes the snapshots of one guard, in memory, from arguments such as `100,keep=3`.

    Args:
        text: `every`, `keep` and `memory_budget_bytes`, as `Snapshots` takes them.

    Raises:
        ValueError: It does not take these arguments.

    Example:
        >>> from trimtab.running import snapshots_from_text
        >>> snapshots_from_text("50,keep=2")()
        Snapshots(every=50, keep=2, folder=None, also=[], memory_budget_bytes=None)
    """
    values, named = _arguments(text)
    given = dict(zip(_SNAPSHOTS, values, strict=False)) | named
    are_numbers = all(isinstance(value, int) for value in given.values())
    if given.keys() - _SNAPSHOTS.keys() or len(values) > len(_SNAPSHOTS) or not are_numbers:
        raise ValueError(f"{text}: expected whole numbers for {', '.join(_SNAPSHOTS)}, such as 100,keep=3.")
    _checked(text, lambda: act.Snapshots(**given))
    return lambda: act.Snapshots(**given)


def policies_from_text(
    *,
    clip: str = "none",
    detect: Sequence[str] = (),
    remedy: str | None = None,
    cooldown: str | None = None,
    snapshots: str | None = None,
    record: Path | None = None,
) -> Policies:
    """All policies of a run from the texts of its options.

    Args:
        clip: See `clip_from_text`.
        detect: See `detector_from_text`.
        remedy: See `remedy_from_text`; None is the library's default.
        cooldown: See `cooldown_from_text`.
        snapshots: See `snapshots_from_text`; None means some if the remedy rewinds.
        record: Folder of the run log, or None.

    Raises:
        ValueError: A text is not understood; the message begins with its option.
    """
    read = _Option("--clip", clip_from_text)(clip)
    detectors = tuple(_Option("--detect", detector_from_text)(text) for text in detect)
    own_remedy = Policies().remedy if remedy is None else _Option("--remedy", remedy_from_text)(remedy)
    make_snapshots = None if snapshots is None else _Option("--snapshots", snapshots_from_text)(snapshots)
    if make_snapshots is None and any(isinstance(part, Rewind) for part in parts(own_remedy)):
        make_snapshots = act.Snapshots
    return Policies(
        clip=read,
        detect=detectors,
        remedy=own_remedy,
        cooldown=None if cooldown is None else _Option("--cooldown", cooldown_from_text)(cooldown),
        snapshots=make_snapshots,
        record=record,
    )


class _Option(NamedTuple):
    """How the text of an option is read, with its name before what is wrong in it."""

    name: str
    read: Callable[[str], Any]

    def __call__(self, text: str) -> Any:
        try:
            return self.read(text)
        except ValueError as error:
            raise ValueError(f"{self.name} {error}") from error


def describe() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each role and how its policies are written, arguments with their defaults."""
    roles = (("clip", CLIPS), ("detect", DETECTORS), ("remedy", REMEDIES))
    return tuple((role, tuple(_usage(policy) for policy in policies)) for role, policies in roles)


def _from_text(text: str, policies: Sequence[type], role: str) -> Any:
    text = text.strip()
    if text == "none" and role != "detector":
        return None
    if re.match(r"[A-Z]\w*\(", text):
        return _from_python(text, policies, role)
    name, _, rest = text.partition(":")
    known = {_name(policy): policy for policy in policies}
    if name not in known:
        none = "" if role == "detector" else ", none"
        raise ValueError(f"{text}: there is no {role} '{name}'. Allowed are {', '.join(known)}{none}.")
    return _call(text, name, known[name], *_arguments(rest))


def _from_python(text: str, policies: Sequence[type], role: str) -> Any:
    policy = _checked(text, lambda: policy_from_repr(text))
    if type(policy) not in policies:
        allowed = ", ".join(each.__name__ for each in policies)
        raise ValueError(f"{text}: that is no {role}. Allowed are {allowed}.")
    return policy


def _call(text: str, name: str, policy: type, values: list[Any], named: dict[str, Any]) -> Any:
    """Make a policy, once it is sure that it takes these arguments."""
    takes = _takes(policy)
    what = f"It takes {', '.join(map(_shown, takes))}." if takes else "It takes no arguments."
    positional = [own.name for own in takes][: len(values)]
    if len(values) > len(takes) or set(positional) & named.keys():
        raise ValueError(f"{text}: '{name}' was given too many values. {what}")
    given = dict(zip(positional, values, strict=True)) | named
    unknown = given.keys() - {own.name for own in takes}
    if unknown:
        raise ValueError(f"{text}: '{name}' takes no '{min(unknown)}'. {what}")
    missing = [own.name for own in takes if own.default is _REQUIRED and own.name not in given]
    composed = [own.name for own in takes if own.is_composed and own.name in (*given, *missing)]
    if composed:
        raise ValueError(
            f"{text}: '{name}' has a '{composed[0]}' that is made of more than one value. Write it as in "
            f"Python, in quotes: '{policy.__name__}(...)'. {what}"
        )
    if missing:
        raise ValueError(f"{text}: '{name}' needs {', '.join(missing)}. {what}")
    rule = _rule_of(policy)
    if rule is not None:
        return policy(rule=_checked(text, lambda: replace(rule, **given)))
    return _checked(text, lambda: policy(**given))


def _checked(text: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{text}: {error}") from error


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Values by place and by name."""
    values: list[Any] = []
    named: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.rpartition("=")
        if equals and key.strip():
            named[key.strip().replace("-", "_")] = _value(value.strip())
        elif named:
            raise ValueError(f"{text}: a value without a name after '{next(reversed(named))}='. Name it too.")
        else:
            values.append(_value(part.strip()))
    return values, named


def _value(text: str) -> Any:
    """A whole number, a number, None, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text == "none" else text


class _Argument(NamedTuple):
    """One argument of a policy. What is made of more than one value cannot be written in short."""

    name: str
    default: Any
    is_composed: bool


def _takes(policy: type) -> list[_Argument]:
    """The arguments of a policy, or of the rule that is all it holds."""
    rule = _rule_of(policy)
    if rule is not None:
        return [_Argument(own.name, getattr(rule, own.name), is_composed=False) for own in fields(rule)]
    return [
        _Argument(own.name, _default(own), is_composed=any(word in str(own.type) for word in _COMPOSED))
        for own in fields(policy)
    ]


def _rule_of(policy: type) -> SpikeRule | None:
    """The default rule of a detector that holds nothing else: its arguments stand for those of the rule."""
    defaults = [own.default for own in fields(policy)]
    return defaults[0] if len(defaults) == 1 and isinstance(defaults[0], SpikeRule) else None


def _default(own: Field[Any]) -> Any:
    return _REQUIRED if own.default is MISSING and own.default_factory is MISSING else own.default


def _shown(own: _Argument) -> str:
    if own.default is _REQUIRED:
        return own.name
    if own.default is None:
        return f"{own.name}=none"
    return f"{own.name}={own.default:g}" if isinstance(own.default, float) else f"{own.name}={own.default}"


def _usage(policy: type) -> str:
    takes = _takes(policy)
    shown = ",".join(_shown(own) for own in takes if not own.is_composed)
    is_short = all(own.default is not _REQUIRED for own in takes if own.is_composed)
    return _name(policy) + (f":{shown}" if shown else "") if is_short else f"{policy.__name__}(...)"


def _name(policy: type) -> str:
    """NormClip is norm, ZScoreClip is z-score, LossSpike is loss-spike."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", policy.__name__.removesuffix("Clip")).lower()
