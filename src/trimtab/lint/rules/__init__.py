"""The patterns, each with its document. A new one comes with examples in which it fires and must not."""

from __future__ import annotations

from trimtab.lint.finding import Rule
from trimtab.lint.rules.logarithms import (
    HandWrittenSoftmax,
    LogOfOneMinusExp,
    LogOfOnePlusExp,
    LogOfSigmoid,
    LogOfSoftmax,
    LogOfSumOfExp,
)
from trimtab.lint.rules.loops import ClipBeforeUnscale, MissingZeroGrad, ScalerForBfloat16, SumOfLosses
from trimtab.lint.rules.losses import (
    ProbabilitiesForLogProbabilities,
    SigmoidBeforeLogits,
    SigmoidThenBinaryCrossEntropy,
    SoftmaxBeforeCrossEntropy,
)
from trimtab.lint.rules.matrices import InverseTimes, LogOfDeterminant, VarianceByDifference
from trimtab.lint.rules.number_formats import AdamOnHalf, ComparisonWithNan, EpsilonLostInHalf
from trimtab.lint.rules.singular_points import (
    AcosOfCosine,
    DivisionByNorm,
    DivisionByStd,
    SqrtOfSquares,
    UnsafeBranchOfWhere,
)

RULES: tuple[Rule, ...] = (
    # logarithms and exponentials
    LogOfSoftmax(),
    LogOfSigmoid(),
    LogOfSumOfExp(),
    HandWrittenSoftmax(),
    LogOfOnePlusExp(),
    LogOfOneMinusExp(),
    # losses
    SoftmaxBeforeCrossEntropy(),
    SigmoidBeforeLogits(),
    SigmoidThenBinaryCrossEntropy(),
    ProbabilitiesForLogProbabilities(),
    # the edge of a domain
    SqrtOfSquares(),
    DivisionByNorm(),
    DivisionByStd(),
    UnsafeBranchOfWhere(),
    AcosOfCosine(),
    # matrices and moments
    InverseTimes(),
    LogOfDeterminant(),
    VarianceByDifference(),
    # number formats
    ComparisonWithNan(),
    EpsilonLostInHalf(),
    AdamOnHalf(),
    # the loop
    ClipBeforeUnscale(),
    SumOfLosses(),
    MissingZeroGrad(),
    ScalerForBfloat16(),
)
