"""The rule of runs that learn nothing from beginning to end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import Course
from trimtab.diagnose.statistics import trend
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# The whole run must be shown to have gained less than this share of the initial loss
_MAX_GAIN = 0.05
_MIN_STEPS = 40
# Causes of slow learning are told in runs of so many steps that lost less than this share of the loss
_SLOW_STEPS, _SLOW_GAIN = 100, 0.35
# and of models that explain less than the second share of what a constant answer leaves; the first is little
_LITTLE, _HALF = 0.3, 0.5
# Learned is, where targets are not known, what halves the gradient at the output
_ASKED_LESS = 0.5
# Less than this share of what a constant answer leaves is nothing; weak signals give a few hundredths
_NO_SHARE = 0.04
# More than nothing, beyond so many standard errors
_SURELY = 2.0
# A validation loss that fell to this share shows that something was learned, whatever the loss
_VAL_FELL = 0.5
# ln K is told for so few classes only: beyond, any number is near some ln K
_MAX_CLASSES, _NEAR_CHANCE = 20, 0.03
# A squared error of at least this share of the targets' own square explains nothing of them
_AS_NOTHING = 0.9
# The first few values must be known so well, in relative terms
_MAX_ERROR = 0.1
# Without a number of classes that it fits, a loss that small may be one that is as good as it gets
_MIN_LEVEL = 0.5
# A loss that rose so far above its first values, beyond so many deviations, was thrown out
# within the first tenth: value functions rise too, but take their time
_PEAK, _PEAK_Z, _PEAK_STEPS = 3.0, 6.0, 10


@final
@dataclass(frozen=True, slots=True)
class Stuck:
    """What it detects: a loss that is, as far as the noise allows to tell, at the end where it began.

    Why it matters: the run learned nothing. A loss at ln K is that of a model that ignores its inputs.

    Evidence used: an equivalence test: the interval of the gain, from medians of blocks, lies within 5 %
    of the initial loss. A plateau after a descent is not reported: it is what convergence looks like.

    What to try: see which of its causes applies: learning rate far too low or too high, labels that have
    nothing to do with the inputs, inputs that are constant, dead or saturated layers, a graph that is cut.

    Known false alarms: a run that continues a finished one and has nothing left to learn. Very short
    runs, runs still in their warm-up, and a GAN's discriminator are left out.

    References: Schuirmann, "A comparison of the two one-sided tests procedure", J. Pharmacokin. Biopharm.
    15, 1987 (equivalence tests).
    """

    causes = (FindingCause.AT_CHANCE, FindingCause.PLATEAU)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course = view.loss
        if len(course) < _MIN_STEPS or not course.is_positive or view.is_warming_up or view.is_critic:
            return ()
        at_chance = _explains_nothing(view) or _ends_at_chance(view) or _ends_at_nothing(view)
        if at_chance is not None:
            return (at_chance,)
        gain = most_gained(course)
        if gain is None or gain > _MAX_GAIN or _knows_more(view):
            return _slow(view)
        classes = chance_classes(course.end)
        cause = FindingCause.PLATEAU if classes is None else FindingCause.AT_CHANCE
        level = f"around {course.end:.4g}"
        if classes is not None:
            level += f", the loss ln {classes} of guessing one of {classes} classes"
        summary = (
            f"The loss did not fall in {len(course)} steps: it stayed "
            f"{level}. With 95 % confidence it gained "
            f"less than {max(gain, 0.001):.1%}."
        )
        advice = (
            "Try to learn one batch by heart. If that fails too, the "
            "gradients do not reach the weights or the "
            "rate is wrong: try rates a hundred times lower and higher. If it works, look at the labels."
        )
        evidence = (
            Evidence("loss at the start", course.start),
            Evidence("loss at the end", course.end),
            Evidence("largest gain that fits the curve", gain, limit=_MAX_GAIN),
        )
        confidence = 0.9 if classes is not None else 0.75
        is_told = classes is not None or course.end >= _MIN_LEVEL
        return (Clue(cause, 0.9, confidence, summary, advice, evidence, view.span, stands_alone=is_told),)


def _knows_more(view: View) -> bool:
    """Whether more is known of the run than that its loss stands.

    A constant in it hides what was learned, the two sides of a GAN keep it in balance, and where the inputs
    say little it cannot fall by much.
    """
    share, error, _ = view.explained
    knows_some = share > _HALF or share > _SURELY * error
    return knows_some or view.still_asked < _ASKED_LESS or _val_fell(view)


def _val_fell(view: View) -> bool:
    """Whether the validation loss stayed, in the end, below half of where it began."""
    val = view.val
    return val is not None and val.is_positive and float(val.values[-3:].max()) < _VAL_FELL * val.values[0]


def is_slow(course: Course) -> bool:
    """Whether the loss kept most of itself over a run of some length.

    Args:
        course: The loss.
    """
    return len(course) >= _SLOW_STEPS and course.is_positive and course.progress < _SLOW_GAIN


def _slow(view: View) -> tuple[Clue, ...]:
    """No finding, but reason enough to tell what slows a run: a loss that kept most of itself."""
    explains_half = len(view.loss) >= _SLOW_STEPS and view.explained.value < _HALF
    if not (is_slow(view.loss) or explains_half):
        return ()
    clue = Clue(
        FindingCause.PLATEAU, 0.3, 0.5, "The loss kept most of itself.", "", stands_alone=False, is_hint=True
    )
    return (clue,)


def explains_little(view: View) -> bool:
    """Whether the model, at the end of a run of some length, is not much better than a constant answer.

    Args:
        view: The run.
    """
    return len(view.loss) >= _SLOW_STEPS and view.explained.value < _LITTLE


def _explains_nothing(view: View) -> Clue | None:
    """A loss that is, on the batches themselves, no better than the best constant answer for each."""
    share, error, best = view.explained
    if len(view.loss) < _SLOW_STEPS or not min(share + 2 * error, best) < _NO_SHARE:
        return None
    if share > _SURELY * error:
        return None  # it knows a little: that may be all there is, or the start of more
    summary = (
        f"At the end the model does no better on its own batches than one constant answer for all of a batch "
        f"({share:.1%} of the loss is explained): it has learned nothing of what tells samples apart."
    )
    advice = (
        "Try to learn one batch by heart. If that fails, inputs or gradients do not get through: look at "
        "shapes (a column against a row is broadcast), scales, dropout and the rate. If it works, look at "
        "whether these targets belong to these inputs."
    )
    evidence = (
        Evidence("share of the best constant answer's loss that is explained", share, limit=_NO_SHARE),
        Evidence("loss at the end", view.loss.end),
    )
    return Clue(FindingCause.AT_CHANCE, 0.9, 0.85, summary, advice, evidence, view.span)


def _ends_at_chance(view: View) -> Clue | None:
    """A cross-entropy that ended at that of guessing, where the number of classes was seen."""
    course, chance = view.loss, view.chance
    is_near = (1 - _NEAR_CHANCE) * chance < course.end < (1 + _NEAR_CHANCE) * chance
    if not is_near or not abs(course.late.change) < _MAX_GAIN:
        return None
    summary = (
        f"The loss ended at {course.end:.4g}, that of guessing one of {math.exp(chance):.0f} classes "
        f"({chance:.4g})."
    )
    advice = (
        "Try to learn one batch by heart. If that fails, the inputs do not reach the output: look at "
        "dropout, the learning rate and the initialization. If it works, look at the labels."
    )
    evidence = (Evidence("loss at the end", course.end), Evidence("loss of guessing", chance))
    return Clue(FindingCause.AT_CHANCE, 0.9, 0.9, summary, advice, evidence, view.span)


def _ends_at_nothing(view: View) -> Clue | None:
    """A squared error that ended at that of the answer 0, as far as fresh outputs told what that is."""
    course, nothing = view.loss, view.square_of_targets
    if math.isfinite(view.explained.value):
        return None  # what the targets leave is known
    if len(course) < _SLOW_STEPS or not course.end > _AS_NOTHING * nothing > 0:
        return None
    if abs(course.late.change) > _MAX_GAIN:
        return None
    summary = (
        f"The squared error ended at {course.end:.4g}, no better than that of the answer 0 for everything "
        f"(about {nothing:.4g})."
    )
    advice = (
        "Try to learn one batch by heart. If that fails, look at the shapes of output and target (a column "
        "against a row is broadcast), and at their scales. If it works, look at what the inputs hold."
    )
    evidence = (Evidence("loss at the end", course.end), Evidence("mean square of the targets", nothing))
    return Clue(FindingCause.AT_CHANCE, 0.9, 0.8, summary, advice, evidence, view.span)


def most_gained(course: Course) -> float | None:
    """Upper end of the interval of the gain, as a share of the initial loss; None if it is not known well."""
    # on the log scale a difference is a ratio
    by_trend = -trend(course.blocks.medians).low
    number = min(len(course), 5 if len(course) >= 300 else 3)
    first, last = course.judged[:number], course.judged[-max(3, len(course) // 10) :]
    gain = float(np.median(first) - np.median(last))
    error = 1.25 * course.noise * math.sqrt(1 / len(first) + 1 / len(last))
    is_higher = gain < -max(_MAX_GAIN, 2 * error)  # it went up: another rule's matter
    if error > _MAX_ERROR or gain > max(_MAX_GAIN, 2 * error) or is_higher:
        return None
    return 1 - math.exp(-max(by_trend, 0.0))


def chance_classes(level: float) -> int | None:
    """The number of classes whose guessing gives this cross-entropy, if it is a small one."""
    if not 0 < level < math.log(_MAX_CLASSES + 0.5):
        return None
    number = round(math.exp(level))
    is_near = number >= 2 and abs(level - math.log(number)) <= _NEAR_CHANCE * math.log(number)
    return number if is_near else None


def was_thrown_out(course: Course) -> bool:
    """Whether the loss jumped far above its very first values early on, and came down from there."""
    early = course.judged[: max(_PEAK_STEPS, len(course) // 10)]
    if len(early) < 4 or not course.is_positive or course.start <= 0:
        return False
    peak = float(np.sort(early)[-2])  # a single value is no state
    down = peak - float(np.median(course.judged[-max(3, len(course) // 10) :]))
    up = peak - float(course.judged[0])
    return up > math.log(_PEAK) and min(up, down) > max(_PEAK_Z * course.noise, math.log(1.3))
