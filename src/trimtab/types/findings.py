"""What a diagnosis says about a run: what is wrong, where, how bad, how sure, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FindingCause(str, Enum):
    """What is wrong with a training run. The value is the name that users and logs see.

    Causes compare equal to their names: `finding.cause == "lr_too_high"`.
    """

    # the course of the loss
    LOSS_NAN = "loss_nan"
    LOSS_EXPLOSION = "loss_explosion"
    SLOW_DIVERGENCE = "slow_divergence"
    LOSS_SPIKE = "loss_spike"
    PLATEAU = "plateau"
    AT_CHANCE = "at_chance"
    OSCILLATION = "oscillation"
    OVERFITTING = "overfitting"
    UNDERFITTING = "underfitting"
    LEAK = "leak"
    # the step
    LR_TOO_HIGH = "lr_too_high"
    LR_TOO_LOW = "lr_too_low"
    LR_ZERO = "lr_zero"
    LR_DECAYED_TOO_EARLY = "lr_decayed_too_early"
    CLIPPING_TOO_TIGHT = "clipping_too_tight"
    WEIGHT_GROWTH = "weight_growth"
    OVER_REGULARIZED = "over_regularized"
    ADAM_EPSILON = "adam_epsilon"
    SECOND_MOMENT = "second_moment"
    NO_WARMUP = "no_warmup"
    UPDATE_RATIO = "update_ratio"
    # the flow through the layers
    VANISHING_GRADIENTS = "vanishing_gradients"
    EXPLODING_GRADIENTS = "exploding_gradients"
    DEAD_UNITS = "dead_units"
    SATURATION = "saturation"
    NONFINITE_ACTIVATIONS = "nonfinite_activations"
    BAD_INIT = "bad_init"
    SYMMETRIC_INIT = "symmetric_init"
    # the loop
    STEP_CHANGES_NOTHING = "step_changes_nothing"
    PARAMETER_NOT_IN_OPTIMIZER = "parameter_not_in_optimizer"
    STALE_OPTIMIZER = "stale_optimizer"
    ZERO_GRAD_MISSING = "zero_grad_missing"
    GRADIENTS_ALTERED = "gradients_altered"
    DETACHED = "detached"
    FROZEN = "frozen"
    WRONG_MODE = "wrong_mode"
    TINY_BATCH_BATCHNORM = "tiny_batch_batchnorm"
    SOFTMAX_BEFORE_CROSS_ENTROPY = "softmax_before_cross_entropy"
    SIGMOID_BEFORE_BCE = "sigmoid_before_bce"
    ACTIVATED_LOGITS = "activated_logits"
    SUM_REDUCTION = "sum_reduction"
    DUPLICATED_PARAMETERS = "duplicated_parameters"
    # the data
    INPUT_SCALE = "input_scale"
    CONSTANT_FEATURES = "constant_features"
    LABEL_TROUBLE = "label_trouble"
    CLASS_COLLAPSE = "class_collapse"
    # the number format
    FP16_UNDERFLOW = "fp16_underflow"
    LOSS_SCALE_COLLAPSE = "loss_scale_collapse"

    def __str__(self) -> str:
        return self.value


class Severity(str, Enum):
    """How much a finding is estimated to cost the run."""

    CRITICAL = "critical"  # the run is lost, or learns nothing
    WARNING = "warning"  # it ends clearly worse than it could
    INFO = "info"  # worth knowing

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that speaks for a finding.

    Attributes:
        name: What was measured, as a phrase ("loss of the last 25 steps").
        value: The number.
        unit: Its unit; empty for what has none.
        limit: What it was compared with, or None.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        against = "" if self.limit is None else f" (against {self.limit:.4g})"
        return f"{self.name}: {self.value:.4g}{unit}{against}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a run, with the evidence and what to change. One finding per root cause.

    Attributes:
        cause: The most likely root cause.
        severity: Estimated harm.
        summary: One sentence: what was seen.
        advice: What to change, with numbers where there are any.
        evidence: The numbers.
        confidence: Probability that the cause is right, in (0, 1].
        steps: First and last step concerned.
        layer: Parameter or module concerned most, or None for the run as a whole.
        symptoms: What else was seen that this cause explains.
        runners_up: Other causes that would explain it, the likeliest first.

    Example:
        >>> finding = Finding(FindingCause.LR_TOO_HIGH, Severity.CRITICAL, "The loss exploded.", "Lower it.")
        >>> finding.cause == "lr_too_high"
        True
    """

    cause: FindingCause
    severity: Severity
    summary: str
    advice: str
    evidence: tuple[Evidence, ...] = ()
    confidence: float = 0.5
    steps: tuple[int, int] = (0, 0)
    layer: str | None = None
    symptoms: tuple[FindingCause, ...] = ()
    runners_up: tuple[FindingCause, ...] = ()

    def __str__(self) -> str:
        where = f" in {self.layer}" if self.layer else ""
        first, last = self.steps
        when = f"step {first}" if first == last else f"steps {first}-{last}"
        return f"{self.cause.value}{where} ({self.severity.value}, {when}): {self.summary}"
