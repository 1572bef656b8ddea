"""Any rule for any part of the model: the same rule for many parts, or a rule for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, final, get_args

import torch
from torch import Tensor

from trimtab.decide.checks import check_role
from trimtab.decide.patterns import assigned, check_patterns
from trimtab.decide.protocols import Clip
from trimtab.types import Clamp, Each, Layout, Needs, Rescaling, Scale, StepStats, Units, wide_dtype

Grouping = Literal["tensor", "module", "group"]

A_CLIP = "a clip such as NormClip(1.0)"


class GroupedState(NamedTuple):
    """How many groups, which one each tensor belongs to, shape (num_tensors,), and the rule's state.

    `group_of` is None when every tensor is a group.
    """

    num_groups: int
    group_of: Tensor | None
    rule: Any


@final
@dataclass(frozen=True, slots=True)
class Grouped:
    """One rule applied to each tensor, each module or each parameter group by itself.

    The rule sees the joint norm of each group where it would see the global norm, and has a state for
    each group, all of them updated at once. `Grouped(QuantileClip(...), by="tensor")` is the
    percentile clipping that bitsandbytes had, with the norm being judged kept out of its own history.

    A group of which no tensor has a gradient has the norm 0, which rules that learn do not enter. A
    group with a norm that is not finite leaves what is known of the others alone.

    Args:
        rule: A clip that judges nothing but the global norm: `NormClip` and those that learn a
            threshold, and wrappers of them.
        by: "tensor"; "module", that is all parameters of the same innermost module; or "group", the
            optimizer's parameter groups.

    Raises:
        ValueError: `rule` needs more than the global norm, or `by` is none of these.
        TypeError: `rule` is no clip.

    Cost:
        That of the rule, once for all groups, and O(num_tensors); no host read. The norms of groups are
        sums over scattered entries, on CUDA in no fixed order unless torch is set to deterministic.

    Example:
        >>> clip = Grouped(NormClip(1.0), by="module")
        >>> layout = Layout(torch.device("cpu"), names=("up.weight", "up.bias", "down.weight"))
        >>> stats = StepStats(None, torch.tensor(5.4), tensor_norms=torch.tensor([3.0, 4.0, 2.0]))
        >>> clip.rescale(stats, clip.init(layout))[0].factor.float()
        tensor([0.2000, 0.2000, 0.5000])
    """

    rule: Clip[Any]
    by: Grouping = "tensor"

    def __post_init__(self) -> None:
        check_role("Grouped(rule", self.rule, "rescale", A_CLIP)
        if self.by not in get_args(Grouping):
            raise ValueError(
                f"Grouped(by={self.by!r}): expected one of {', '.join(map(repr, get_args(Grouping)))}. "
                "For parts of your own choice use ByName."
            )
        if self.rule.needs != Needs.NOTHING:
            raise ValueError(
                f"Grouped(rule={self.rule!r}): expected a rule that judges the norm alone, such as NormClip "
                "or QuantileClip; this one looks at tensors, units or elements by itself. Use it without "
                "Grouped."
            )

    @property
    def needs(self) -> Needs:
        """The norm of each tensor."""
        return Needs.TENSORS

    @property
    def norm_type(self) -> float:
        """The p of the rule's norm."""
        return self.rule.norm_type

    def init(self, layout: Layout) -> GroupedState:
        """The rule's state for each group."""
        if self.by == "tensor":
            num = len(layout.names)
            return GroupedState(num, None, self.rule.init(replace(layout, norm_shape=(num,))))
        keys: Sequence[object] = layout.groups
        if self.by == "module":
            keys = [name.rpartition(".")[0] for name in layout.names]
        index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        num = len(index)
        group_of = torch.tensor([index[key] for key in keys], dtype=torch.int64, device=layout.device)
        return GroupedState(num, group_of, self.rule.init(replace(layout, norm_shape=(num,))))

    def rescale(self, stats: StepStats[Tensor], state: GroupedState) -> tuple[Rescaling, GroupedState]:
        """One factor for each tensor, the same within a group."""
        assert isinstance(stats.tensor_norms, Tensor)  # `needs` asks for them
        norms = stats.tensor_norms.to(wide_dtype(stats.tensor_norms.device))
        if state.group_of is not None:
            norms = _group_norms(norms, state.group_of, state.num_groups, self.norm_type)
        seen = StepStats(stats.loss, norms)
        rescaling, new = self.rule.rescale(seen, state.rule)
        if isinstance(rescaling, Scale) and rescaling.factor.dim() > 0 and state.group_of is not None:
            rescaling = Scale(rescaling.factor.index_select(0, state.group_of))
        return rescaling, state._replace(rule=new)


class ByNameState(NamedTuple):
    """Which tensors each rule is for, as indices on the device and on the host; the rules' states."""

    indices: tuple[Tensor, ...]
    members: tuple[tuple[int, ...], ...]
    rules: tuple[Any, ...]


@final
@dataclass(frozen=True, slots=True)
class ByName:
    """A rule of its own for each part of the model, found by name.

    Each rule sees its part as if that were the model: the joint norm of its tensors, and the norms of
    tensors and units if it wants them. Any clip will do, `ValueClip`, `UnitClip`, `Grouped` and another
    `ByName` among them.

    Args:
        rules: Clips by pattern: the exact name of a parameter, a prefix that ends at a dot, or a glob.
            The most specific wins, as in `LayerClip`. None leaves a part alone.
        rest: Clip of all that no pattern matches; None leaves it alone.

    Raises:
        ValueError: There are no rules, or their norms differ. When a guard is made: a pattern decides
            about no parameter, or two match one as closely.
        TypeError: A rule is no clip.

    Cost:
        That of each rule, and O(num_tensors); no host read.

    Example:
        >>> clip = ByName({"encoder": NormClip(1.0), "head.bias": ValueClip(0.1)})
        >>> layout = Layout(torch.device("cpu"), ("encoder.w", "encoder.b", "head.w", "head.bias"),
        ...                 ((),) * 4, (None,) * 4, (0,) * 4)
        >>> stats = StepStats(None, torch.tensor(5.5), tensor_norms=torch.tensor([3.0, 4.0, 2.0, 1.0]))
        >>> decision, _ = clip.rescale(stats, clip.init(layout))
        >>> [round(p.factor.item(), 2) if isinstance(p, Scale) else p for p in decision.parts]
        [0.2, 0.2, None, Clamp(low=-0.1, high=0.1)]
    """

    rules: Mapping[str, Clip[Any] | None]
    rest: Clip[Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Mapping) or not self.rules:
            raise ValueError(
                f"ByName(rules={self.rules!r}): expected clips by pattern, such as "
                "{'encoder': NormClip(1.0)}. For one rule for all, pass that rule."
            )
        check_patterns("ByName(rules", self.rules)
        for pattern, rule in self.rules.items():
            if rule is not None:
                check_role(f"ByName(rules[{pattern!r}]", rule, "rescale", A_CLIP)
        if self.rest is not None:
            check_role("ByName(rest", self.rest, "rescale", A_CLIP)
        check_one_norm("ByName", self._clips())
        # a copy: what the caller does to theirs must not change a policy
        object.__setattr__(self, "rules", dict(self.rules))

    def _clips(self) -> tuple[Clip[Any] | None, ...]:
        return (*self.rules.values(), self.rest)

    @property
    def needs(self) -> Needs:
        """The norm of each tensor, and what the rules need."""
        return needs_of(self._clips()) | Needs.TENSORS

    @property
    def norm_type(self) -> float:
        """The p of the rules' norm."""
        return norm_type_of(self._clips())

    def init(self, layout: Layout) -> ByNameState:
        """The state of each rule.

        Raises:
            ValueError: A pattern decides about no parameter, or two match one as closely, or a rule does
                not suit its part.
        """
        patterns = assigned("ByName", tuple(self.rules), layout.names)
        members = tuple(
            tuple(i for i, found in enumerate(patterns) if found == pattern)
            for pattern in (*self.rules, None)
        )
        return _parted(self._clips(), members, layout)

    def rescale(self, stats: StepStats[Tensor], state: ByNameState) -> tuple[Each, ByNameState]:
        """One decision for each tensor."""
        return _decided_by_part(self._clips(), stats, state)


@final
@dataclass(frozen=True, slots=True)
class ByGroup:
    """A rule of its own for each of the optimizer's parameter groups.

    Each rule sees its group as if that were the model, as in `ByName`. For the same rule in every group
    use `Grouped(rule, by="group")`.

    Args:
        rules: Clips in the order of `optimizer.param_groups`; None leaves a group alone.
        rest: Clip of each group after those, the ones that are added later among them; None leaves it alone.

    Raises:
        ValueError: There are no rules, or their norms differ. When a guard is made: there are fewer groups.
        TypeError: A rule is no clip.

    Cost:
        That of each rule, and O(num_tensors); no host read.

    Example:
        >>> clip = ByGroup((NormClip(1.0), ValueClip(0.1)))
        >>> layout = Layout(torch.device("cpu"), ("a", "b", "c"), ((),) * 3, (None,) * 3, groups=(0, 0, 1))
        >>> stats = StepStats(None, torch.tensor(5.5), tensor_norms=torch.tensor([3.0, 4.0, 2.0]))
        >>> decision, _ = clip.rescale(stats, clip.init(layout))
        >>> [round(p.factor.item(), 2) if isinstance(p, Scale) else p for p in decision.parts]
        [0.2, 0.2, Clamp(low=-0.1, high=0.1)]
    """

    rules: tuple[Clip[Any] | None, ...]
    rest: Clip[Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rules, (tuple, list)) or not self.rules:
            raise ValueError(
                f"ByGroup(rules={self.rules!r}): expected one clip for each parameter group, such as "
                "(NormClip(1.0), ValueClip(0.1)). For one rule in all groups use Grouped(rule, by='group')."
            )
        object.__setattr__(self, "rules", tuple(self.rules))
        for index, rule in enumerate(self.rules):
            if rule is not None:
                check_role(f"ByGroup(rules[{index}]", rule, "rescale", A_CLIP)
        if self.rest is not None:
            check_role("ByGroup(rest", self.rest, "rescale", A_CLIP)
        check_one_norm("ByGroup", (*self.rules, self.rest))

    @property
    def needs(self) -> Needs:
        """The norm of each tensor, and what the rules need."""
        return needs_of((*self.rules, self.rest)) | Needs.TENSORS

    @property
    def norm_type(self) -> float:
        """The p of the rules' norm."""
        return norm_type_of((*self.rules, self.rest))

    def init(self, layout: Layout) -> ByNameState:
        """The state of each rule.

        Raises:
            ValueError: There are fewer groups than rules, or a rule does not suit its group.
        """
        num = len(self.rules)
        num_groups = max(layout.groups, default=-1) + 1
        if num_groups < num:
            raise ValueError(f"ByGroup: {num} rules for the {num_groups} parameter groups of the optimizer.")
        members = tuple(
            tuple(i for i, group in enumerate(layout.groups) if min(group, num) == k) for k in range(num + 1)
        )
        return _parted((*self.rules, self.rest), members, layout)

    def rescale(self, stats: StepStats[Tensor], state: ByNameState) -> tuple[Each, ByNameState]:
        """One decision for each tensor."""
        return _decided_by_part((*self.rules, self.rest), stats, state)


def _parted(
    clips: Sequence[Clip[Any] | None], members: tuple[tuple[int, ...], ...], layout: Layout
) -> ByNameState:
    """The states of clips that are for these tensors each."""
    return ByNameState(
        indices=tuple(torch.tensor(m, dtype=torch.int64, device=layout.device) for m in members),
        members=members,
        rules=tuple(
            clip.init(replace(layout.part(m), norm_shape=())) if clip is not None and m else None
            for clip, m in zip(clips, members, strict=True)
        ),
    )


def _decided_by_part(
    clips: Sequence[Clip[Any] | None], stats: StepStats[Tensor], state: ByNameState
) -> tuple[Each, ByNameState]:
    """What each clip decides about its tensors."""
    assert isinstance(stats.tensor_norms, Tensor)  # `needs` asks for them
    parts: list[Scale | Clamp | None] = [None] * len(stats.tensor_norms)
    states = list(state.rules)
    for k, (clip, indices, members) in enumerate(zip(clips, state.indices, state.members, strict=True)):
        if clip is None or not members:
            continue
        seen = _part(stats, indices, members, clip.norm_type)
        rescaling, states[k] = clip.rescale(seen, state.rules[k])
        for index, part in zip(members, spread(rescaling, len(members)), strict=True):
            parts[index] = part
    return Each(tuple(parts)), state._replace(rules=tuple(states))


def spread(rescaling: Rescaling, num: int) -> tuple[Scale | Clamp | None, ...]:
    """A decision about so many gradients as one for each.

    Example:
        >>> spread(Scale(torch.tensor([0.5, 1.0])), 2)
        (Scale(factor=tensor(0.5000)), Scale(factor=tensor(1.)))
    """
    match rescaling:
        case Each(parts=parts):
            return parts
        case Scale(factor=factor) if factor.dim() > 0:
            return tuple(Scale(own) for own in factor.unbind())
    return (rescaling,) * num


def needs_of(clips: Sequence[Clip[Any] | None]) -> Needs:
    """All that these clips want measured."""
    found = Needs.NOTHING
    for clip in clips:
        found |= Needs.NOTHING if clip is None else clip.needs
    return found


def norm_type_of(clips: Sequence[Clip[Any] | None]) -> float:
    """The p that these clips have in common; 2 for none."""
    return next((clip.norm_type for clip in clips if clip is not None), 2.0)


def check_one_norm(policy: str, clips: Sequence[Clip[Any] | None]) -> None:
    """See that these clips can share one measurement.

    Raises:
        ValueError: They want different norms.
    """
    wanted = list(dict.fromkeys(float(clip.norm_type) for clip in clips if clip is not None))
    if len(wanted) > 1:
        raise ValueError(
            f"{policy}: expected clips of the same norm_type, got {', '.join(map(str, wanted))}. One norm is "
            "measured in a step; give all of them the same."
        )


def _part(
    stats: StepStats[Tensor], indices: Tensor, members: Sequence[int], norm_type: float
) -> StepStats[Tensor]:
    """The statistics of some of the tensors, as if there were no others."""
    assert isinstance(stats.tensor_norms, Tensor)
    norms = stats.tensor_norms.index_select(0, indices)
    joint = torch.linalg.vector_norm(norms, norm_type, dtype=wide_dtype(norms.device))
    units = None
    if stats.units is not None:
        units = Units(
            tuple(stats.units.gradients[i] for i in members),
            tuple(stats.units.parameters[i] for i in members),
        )
    return replace(stats, grad_norm=joint, tensor_norms=norms, units=units)


def _group_norms(norms: Tensor, group_of: Tensor, num_groups: int, p: float) -> Tensor:
    """The p-norm of each group from the norms of its tensors."""
    largest = norms.new_zeros(num_groups).scatter_reduce(0, group_of, norms, "amax")
    if p == float("inf"):
        return largest
    # divided by the largest no power leaves the range; a group without one has the norm 0, inf or nan
    ratios = norms / largest.index_select(0, group_of)
    sums = norms.new_zeros(num_groups).index_add(0, group_of, ratios.pow(p))
    return torch.where(largest.isfinite() & (largest > 0), largest * sums.pow(1.0 / p), largest)
