"""Finds out whether a curve ended clearly above the best it had reached."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trimtab.diagnose.course import MIN_STEPS, Course
from trimtab.diagnose.statistics import FloatArray, rank_test, trend

# A rise counts from a factor of 1.5 on (diagnosis by block medians, spec'd false alarms 0 of 21), with a
# rank test far below what a thousand looks at noise would give, and beyond five standard errors.
_MIN_RATIO, _MAX_P, _MIN_Z = math.log(1.5), 1e-4, 5.0
# A smaller one counts when it takes back most of what was gained, and that was something
_SMALL_RATIO, _MOST, _SOME_GAIN = math.log(1.12), 0.6, math.log(1.3)
# What is lost must be this share of what was gained
_MIN_LOST = 0.1
# Rises that were made good again before are the way of this curve: a new one must be larger
_HABIT = 1.5
# A loss that rises from its very beginning and then stays where it is may be one whose target moves, as of a
# GAN or of a value function: that is told only if it is thrown up at once, or out of all proportion
_NO_GAIN, _AT_ONCE_BLOCKS, _PROPORTION, _STILL_RISING = 0.05, 2, math.log(10.0), 0.1
# Rates are comparable when they are at least this share of the later one
_COMPARABLE = 0.7


class Rise(NamedTuple):
    """A curve ended above its best.

    Attributes:
        best_block: The block it rose from.
        step: First step after the best block.
        best: Level there.
        end: Level at the end.
        size: Rise on the judged scale.
        z: Rise in standard errors.
        lost: Share of what was gained that is lost.
    """

    best_block: int
    step: int
    best: float
    end: float
    size: float
    z: float
    lost: float


def final_rise(course: Course, lr_of_blocks: FloatArray | None = None) -> Rise | None:
    """The rise from the best block to the end, if it is real, harmful and no habit of the curve.

    With a learning rate that goes up and down again, only blocks with a comparable rate are compared.

    Args:
        course: The curve.
        lr_of_blocks: Learning rate of each block, or None.
    """
    if len(course) < MIN_STEPS:
        return None
    medians, edges, noise = course.blocks
    num_last = max(2, len(medians) // 10)
    end = float(np.median(medians[-num_last:]))
    allowed = _comparable(medians, lr_of_blocks, num_last)
    if not allowed.any():
        return None
    # the lowest of many noisy blocks is low by chance: with its neighbors it is not
    smooth = _median_of_three(medians)
    best_block = int(np.argmin(np.where(allowed, smooth, np.inf)))
    size = end - float(smooth[best_block])
    noise = max(noise, 1e-3)
    level = course.end
    lost = course.lost(level)
    is_large = size > _MIN_RATIO and lost >= _MIN_LOST
    # two models that hold each other in balance gain a little at first and give it back
    has_gained = float(medians[0] - smooth[best_block]) > _SOME_GAIN
    is_total = size > _SMALL_RATIO and lost >= _MOST and has_gained
    if not (is_large or is_total) or size < _MIN_Z * noise or size < _HABIT * _habit(medians, num_last, size):
        return None
    around = slice(edges[max(best_block - 1, 0)], edges[best_block + 1])
    late = slice(edges[len(medians) - num_last], None)
    p = rank_test(course.judged[around], course.judged[late])
    few = len(course.judged[around]) < 12  # of so few the test cannot say more
    if p > (0.01 if few else _MAX_P):
        return None
    if _is_moving_target(course, best_block, size, num_last):
        return None
    step = int(course.steps[min(edges[best_block + 1], len(course) - 1)])
    return Rise(best_block, step, course.level(best_block), level, size, size / noise, lost)


def _median_of_three(medians: FloatArray) -> FloatArray:
    """Each block with its neighbors; the ends as they are, or what falls to the very end would look worse."""
    inner = np.median(np.stack([medians[:-2], medians[1:-1], medians[2:]]), axis=0)
    return np.concatenate([medians[:1], inner, medians[-1:]])


def _is_moving_target(course: Course, best_block: int, size: float, num_last: int) -> bool:
    """Whether the loss gained nothing before it rose, rose without haste, and rises no more."""
    medians = course.blocks.medians
    gained = float(course.judged[0] - medians[best_block])
    if best_block > len(medians) // 4 or gained > max(_NO_GAIN, 3 * course.noise) or size > _PROPORTION:
        return False
    after = medians[min(best_block + _AT_ONCE_BLOCKS, len(medians) - 1)] - medians[best_block]
    is_at_once = after > 0.8 * size and size > math.log(3.0)
    third = medians[-max(num_last, len(medians) // 3) :]
    is_rising = trend(third).low > 0 and trend(third).change > _STILL_RISING * size
    return not (is_at_once or is_rising)


def _comparable(medians: FloatArray, lr: FloatArray | None, num_last: int) -> np.ndarray:
    """Which blocks may be compared with the last ones."""
    allowed = np.ones(len(medians), dtype=bool)
    allowed[-num_last:] = False
    if lr is None or len(lr) != len(medians):
        return allowed
    is_alike = lr >= _COMPARABLE * float(np.median(lr[-num_last:]))
    best = int(np.argmin(np.where(allowed, medians, np.inf)))
    # a rate never tried before the best block is a new one and may be to blame: then everything counts
    return allowed & is_alike if is_alike[: best + 1].any() else allowed


def _habit(medians: FloatArray, num_last: int, size: float) -> float:
    """The largest rise above the best so far that was made good again later."""
    lowest, largest = medians[0], 0.0
    future = np.minimum.accumulate(medians[::-1])[::-1]
    for index in range(1, len(medians) - num_last):
        lowest = min(lowest, medians[index])
        up = medians[index] - lowest
        if up > largest and future[index] <= lowest + 0.25 * min(up, size):
            largest = float(up)
    return largest
