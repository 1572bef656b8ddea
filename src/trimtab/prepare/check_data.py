"""Checks of the data: finite, of a usable scale, and not constant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.prepare.calling import Watched
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure
from trimtab.prepare.loss_terms import LossKind, LossTerm

# Standardized data has an RMS of 1, pixels in [0, 1] about 0.3, in [0, 16] about 8; raw bytes about 130
_MAX_RMS, _MIN_RMS = 40.0, 1e-3
# Ratio of the scales of two features from which one of them is invisible to the first layer
_MAX_SCALES = 1e3
# Distance of a feature from 0 in units of its own spread
_MAX_OFFSET = 100.0
_MAX_TARGET_RMS, _MIN_TARGET_RMS = 1e3, 1e-3
_MIN_ROWS = 8  # fewer samples say nothing about a feature
_MAX_CONSTANT_SHARE = 0.6  # images on a black ground reach 0.5
_NORMALIZERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def check_finite(named: Sequence[tuple[str, Tensor]]) -> Check:
    """Whether batch, parameters and buffers hold no NaN or Inf; a mask of 0 and -inf is meant so."""
    name = "finite data"
    bad = [(label, tensor) for label, tensor in named if _is_bad(tensor)]
    if not bad:
        return ok(name, f"all {len(named)} tensors of the batch and the model are finite")
    label, tensor = bad[0]
    num = float((~tensor.isfinite()).sum())
    return problem(
        name,
        f"{label} holds NaN or Inf" + (f", and so do {len(bad) - 1} more" if len(bad) > 1 else ""),
        Number("elements not finite", num),
        Number("of", float(tensor.numel())),
        advice="Find out where they come from: missing values, a division by a spread of 0, a checkpoint.",
    )


def check_input_scale(seen: Watched) -> Check:
    """Whether the numbers that the model is given are of a size it can work with."""
    name = "input scale"
    inputs = floats(seen.inputs)
    if not inputs:
        why = (
            "the model is given no floating-point data" if seen.inputs else "the model was not called itself"
        )
        return nothing(name, why)
    x = max(inputs, key=lambda t: t.numel()).detach().double()
    x = torch.where(x.isfinite(), x, 0.0)
    rms = float(x.square().mean().sqrt())
    numbers = [Number("RMS", rms), Number("largest", float(x.abs().max()))]
    if seen.first is not None and isinstance(seen.first, _NORMALIZERS):
        return ok(name, f"RMS {rms:.3g}; the first layer normalizes", *numbers)
    advice = "Standardize the inputs: subtract the mean and divide by the standard deviation of each feature."
    if rms > _MAX_RMS or 0 < rms < _MIN_RMS:
        return problem(name, f"the inputs have an RMS of {rms:.3g}", *numbers, advice=advice)
    if x.dim() == 2 and len(x) >= _MIN_ROWS:
        spread, center = x.std(0), x.mean(0).abs()
        varies = spread > 1e-6 * (center + rms * 1e-3)
        if varies.sum() >= 2:
            scales = float(spread[varies].max() / spread[varies].min())
            numbers.append(Number("largest over smallest spread", scales))
            # a rare category is a feature of small spread, and harmless: its values are of usual size
            peaks = x.abs().amax(0)[varies]
            sizes = float(peaks.max() / peaks[peaks > 0].min())
            if scales > _MAX_SCALES and sizes > _MAX_SCALES:
                text = f"features differ in scale by a factor of {scales:.3g}"
                return problem(name, text, *numbers, advice=advice)
            offset = center[varies] / spread[varies]
            numbers.append(Number("largest mean over spread", float(offset.max())))
            if float(offset.max()) > _MAX_OFFSET:
                feature = int(varies.nonzero()[int(offset.argmax())])
                text = f"feature {feature} lies {float(offset.max()):.3g} times its spread away from 0"
                return problem(name, text, *numbers, advice=advice)
    return ok(name, f"RMS {rms:.3g}", *numbers)


def check_constant_features(seen: Watched) -> Check:
    """Whether the samples differ, and each feature carries something."""
    name = "constant features"
    inputs = floats(seen.inputs)
    rows = [x for x in (inputs or seen.inputs) if x.dim() >= 2 and len(x) > 1]
    if not rows:
        return nothing(name, "the model is given no rows of data")
    x = max(rows, key=lambda t: t.numel()).detach()
    flat = x.reshape(len(x), -1)
    constant = (flat == flat[:1]).all(0)
    share = float(constant.double().mean())
    numbers = (Number("constant share", share), Number("features", float(flat.shape[1])))
    if share == 1.0:
        text = "all samples of the batch are the same"
        return problem(
            name, text, *numbers, advice="Look at the loader: it hands out one sample again and again."
        )
    if len(x) < _MIN_ROWS or x.dim() != 2 or not x.is_floating_point():
        return ok(name, "the samples differ", *numbers)
    values = flat[0][constant]
    # padding, absent categories, an intercept, the ground of an image: constant and meant so; a rare feature
    # is as well, and once standardized a small number while it is absent
    usual = flat[:, ~constant].double().square().mean().sqrt()
    odd = (values != 0) & (values != 1) & (values != flat.min()) & (values.abs() > 0.5 * usual)
    if bool(odd.any()) or share > _MAX_CONSTANT_SHARE:
        which = constant.nonzero().flatten()
        which = which[odd] if bool(odd.any()) else which
        text = f"{len(which)} of {flat.shape[1]} features are constant, such as feature {int(which[0])}"
        return problem(name, text, *numbers, advice="Drop them, or find out why they no longer vary.")
    text = f"{int(constant.sum())} of {flat.shape[1]} features are constant in this batch"
    return ok(name, text, *numbers)


def check_targets(terms: Sequence[LossTerm]) -> Check:
    """Whether targets have a usable scale and vary."""
    name = "targets"
    with_targets = [t for t in terms if t.target is not None and t.target.numel()]
    if not with_targets:
        return unsure(name, "no target was found in the graph of the loss")
    for term in with_targets:
        target = term.target
        assert target is not None
        wide = target.detach().double()
        if term.kind is LossKind.CROSS_ENTROPY:
            if bool((target == target.flatten()[0]).all()) and target.numel() >= _MIN_ROWS:
                text = f"all {target.numel()} labels of the batch are {int(target.flatten()[0])}"
                return problem(name, text, advice="Shuffle the data; look at how labels are made.")
            continue
        low, high = float(wide.min()), float(wide.max())
        numbers = (Number("smallest", low), Number("largest", high))
        if term.kind is LossKind.BINARY_WITH_LOGITS and not 0 <= low <= high <= 1:
            text = f"targets of a binary cross-entropy reach from {low:.3g} to {high:.3g}"
            return problem(name, text, *numbers, advice="They must lie in [0, 1].")
        if low == high and target.numel() >= _MIN_ROWS and term.kind is LossKind.SQUARED and low != 0:
            text = f"all targets of the batch are {low:.3g}"
            return problem(name, text, *numbers, advice="Look at how targets are made.")
        rms = float(wide.square().mean().sqrt())
        if term.kind in (LossKind.SQUARED, LossKind.ROBUST) and not (
            rms == 0 or _MIN_TARGET_RMS <= rms <= _MAX_TARGET_RMS
        ):
            text = f"the targets have an RMS of {rms:.3g}"
            return problem(name, text, *numbers, advice="Standardize them, and undo it in predictions.")
    return ok(name, "the targets vary, and their scale is usable")


def floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those of floating type with at least two dimensions; masks of -inf are left out."""
    return [t for t in tensors if t.is_floating_point() and t.dim() >= 2 and t.numel() and not _is_mask(t)]


def _is_mask(tensor: Tensor) -> bool:
    """Only 0 and -inf, as attention takes it."""
    return bool(((tensor == 0) | (tensor == -torch.inf)).all()) and bool((tensor == -torch.inf).any())


def _is_bad(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return False
    return not bool(tensor.isfinite().all()) and not _is_mask(tensor)
