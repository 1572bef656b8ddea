"""Stable math and linear algebra: what torch computes with fewer digits than it could, and nothing else."""

from trimtab.numerics.accumulate import RunningSum as RunningSum
from trimtab.numerics.accumulate import add_ as add_
from trimtab.numerics.accumulate import ema_ as ema_
from trimtab.numerics.accumulate import stochastic_round as stochastic_round
from trimtab.numerics.activations import mish as mish
from trimtab.numerics.activations import silu as silu
from trimtab.numerics.binary import bce_with_logits as bce_with_logits
from trimtab.numerics.binary import bernoulli_entropy as bernoulli_entropy
from trimtab.numerics.binary import sigmoid_focal_loss as sigmoid_focal_loss
from trimtab.numerics.conditioning import condition_lower_bound as condition_lower_bound
from trimtab.numerics.conditioning import condition_number as condition_number
from trimtab.numerics.conditioning import estimate_condition as estimate_condition
from trimtab.numerics.cross_entropy import cross_entropy as cross_entropy
from trimtab.numerics.decompositions import det as det
from trimtab.numerics.decompositions import polar as polar
from trimtab.numerics.decompositions import safe_eigh as safe_eigh
from trimtab.numerics.decompositions import safe_svd as safe_svd
from trimtab.numerics.distances import cdist as cdist
from trimtab.numerics.divergences import entropy_from_logits as entropy_from_logits
from trimtab.numerics.divergences import js_divergence as js_divergence
from trimtab.numerics.divergences import kl_from_logits as kl_from_logits
from trimtab.numerics.elementary import expm1 as expm1
from trimtab.numerics.elementary import log1mexp as log1mexp
from trimtab.numerics.elementary import log_cosh as log_cosh
from trimtab.numerics.elementary import logaddexp as logaddexp
from trimtab.numerics.elementary import logit as logit
from trimtab.numerics.elementary import logsubexp as logsubexp
from trimtab.numerics.elementary import sigmoid as sigmoid
from trimtab.numerics.elementary import softplus as softplus
from trimtab.numerics.elementary import softplus_inverse as softplus_inverse
from trimtab.numerics.elementary import tanh as tanh
from trimtab.numerics.floating import FLOAT_FORMATS as FLOAT_FORMATS
from trimtab.numerics.floating import FloatFormat as FloatFormat
from trimtab.numerics.floating import float_format as float_format
from trimtab.numerics.floating import machine_epsilon as machine_epsilon
from trimtab.numerics.gumbel import gumbel_noise as gumbel_noise
from trimtab.numerics.gumbel import gumbel_softmax as gumbel_softmax
from trimtab.numerics.indexed import embedding as embedding
from trimtab.numerics.indexed import index_add as index_add
from trimtab.numerics.indexed import index_put as index_put
from trimtab.numerics.indexed import segment_sum as segment_sum
from trimtab.numerics.indexed import take_rows as take_rows
from trimtab.numerics.inverse import acos as acos
from trimtab.numerics.inverse import acosh as acosh
from trimtab.numerics.inverse import asin as asin
from trimtab.numerics.inverse import asinh as asinh
from trimtab.numerics.inverse import atan2 as atan2
from trimtab.numerics.inverse import atanh as atanh
from trimtab.numerics.inverse import hypot as hypot
from trimtab.numerics.inverse import safe_acos as safe_acos
from trimtab.numerics.inverse import safe_asin as safe_asin
from trimtab.numerics.iterative import CgResult as CgResult
from trimtab.numerics.iterative import CgStatus as CgStatus
from trimtab.numerics.iterative import conjugate_gradient as conjugate_gradient
from trimtab.numerics.layer_conditioning import LayerConditioning as LayerConditioning
from trimtab.numerics.layer_conditioning import Method as Method
from trimtab.numerics.layer_conditioning import check_conditioning as check_conditioning
from trimtab.numerics.least_squares import LeastSquares as LeastSquares
from trimtab.numerics.least_squares import least_squares as least_squares
from trimtab.numerics.least_squares import qr as qr
from trimtab.numerics.log_sums import SignedLog as SignedLog
from trimtab.numerics.log_sums import logcumsumexp as logcumsumexp
from trimtab.numerics.log_sums import logmeanexp as logmeanexp
from trimtab.numerics.log_sums import signed_logsumexp as signed_logsumexp
from trimtab.numerics.masked import masked_log_softmax as masked_log_softmax
from trimtab.numerics.masked import masked_logsumexp as masked_logsumexp
from trimtab.numerics.masked import masked_mean as masked_mean
from trimtab.numerics.masked import masked_normalize as masked_normalize
from trimtab.numerics.masked import masked_softmax as masked_softmax
from trimtab.numerics.masked import masked_standardize as masked_standardize
from trimtab.numerics.masked import masked_std as masked_std
from trimtab.numerics.masked import masked_var as masked_var
from trimtab.numerics.matrix_functions import inv_sqrtm_psd as inv_sqrtm_psd
from trimtab.numerics.matrix_functions import logm_psd as logm_psd
from trimtab.numerics.matrix_functions import powm_psd as powm_psd
from trimtab.numerics.matrix_functions import sqrtm_psd as sqrtm_psd
from trimtab.numerics.moments import safe_std as safe_std
from trimtab.numerics.moments import standardize as standardize
from trimtab.numerics.multigrid import GeometricMultigrid as GeometricMultigrid
from trimtab.numerics.multigrid import GridOperator as GridOperator
from trimtab.numerics.normal import gelu as gelu
from trimtab.numerics.normal import log_ndtr as log_ndtr
from trimtab.numerics.normal import ndtr as ndtr
from trimtab.numerics.normalizers import log_softmax as log_softmax
from trimtab.numerics.normalizers import logsumexp as logsumexp
from trimtab.numerics.normalizers import softmax as softmax
from trimtab.numerics.norms import cosine_similarity as cosine_similarity
from trimtab.numerics.norms import normalize as normalize
from trimtab.numerics.norms import pairwise_distance as pairwise_distance
from trimtab.numerics.norms import safe_norm as safe_norm
from trimtab.numerics.penalties import SpectralPenalty as SpectralPenalty
from trimtab.numerics.penalties import activation_penalty as activation_penalty
from trimtab.numerics.penalties import gradient_penalty as gradient_penalty
from trimtab.numerics.preconditioners import algebraic_multigrid as algebraic_multigrid
from trimtab.numerics.preconditioners import as_scipy as as_scipy
from trimtab.numerics.preconditioners import incomplete_cholesky as incomplete_cholesky
from trimtab.numerics.preconditioners import jacobi as jacobi
from trimtab.numerics.pruning import magnitude_mask as magnitude_mask
from trimtab.numerics.pruning import magnitude_pruning as magnitude_pruning
from trimtab.numerics.pruning import prune_globally as prune_globally
from trimtab.numerics.pruning import prune_layers as prune_layers
from trimtab.numerics.psd import PsdFactor as PsdFactor
from trimtab.numerics.psd import cholesky_psd as cholesky_psd
from trimtab.numerics.psd import inv_quad_logdet as inv_quad_logdet
from trimtab.numerics.psd import logdet_psd as logdet_psd
from trimtab.numerics.psd import sample_gaussian as sample_gaussian
from trimtab.numerics.psd import solve_psd as solve_psd
from trimtab.numerics.quadratic import quadratic_roots as quadratic_roots
from trimtab.numerics.quadratic import stable_quadratic as stable_quadratic
from trimtab.numerics.quantize import CastReport as CastReport
from trimtab.numerics.quantize import Quantized as Quantized
from trimtab.numerics.quantize import QuantScheme as QuantScheme
from trimtab.numerics.quantize import cast_report as cast_report
from trimtab.numerics.quantize import fake_quantize as fake_quantize
from trimtab.numerics.quantize import quantize as quantize
from trimtab.numerics.safe import safe_div as safe_div
from trimtab.numerics.safe import safe_log as safe_log
from trimtab.numerics.safe import safe_pow as safe_pow
from trimtab.numerics.safe import safe_rsqrt as safe_rsqrt
from trimtab.numerics.safe import safe_sqrt as safe_sqrt
from trimtab.numerics.safe import xlog1py as xlog1py
from trimtab.numerics.safe import xlogy as xlogy
from trimtab.numerics.sparse import LayoutTiming as LayoutTiming
from trimtab.numerics.sparse import csr_tensor as csr_tensor
from trimtab.numerics.sparse import poisson_matrix as poisson_matrix
from trimtab.numerics.sparse import size_bytes as size_bytes
from trimtab.numerics.sparse import time_layouts as time_layouts
from trimtab.numerics.sparse import to_coo as to_coo
from trimtab.numerics.sparse import to_csr as to_csr
from trimtab.numerics.sparse import to_scipy as to_scipy
from trimtab.numerics.special import digamma as digamma
from trimtab.numerics.special import expm1_minus_x as expm1_minus_x
from trimtab.numerics.special import log1p_minus_x as log1p_minus_x
from trimtab.numerics.special import sqrt1pm1 as sqrt1pm1
from trimtab.numerics.special import trigamma as trigamma
from trimtab.numerics.sums import cumsum_compensated as cumsum_compensated
from trimtab.numerics.sums import dot2 as dot2
from trimtab.numerics.sums import sum_compensated as sum_compensated
from trimtab.numerics.sums import sum_pairwise as sum_pairwise
from trimtab.numerics.welford import Moments as Moments
from trimtab.numerics.welford import batch_norm as batch_norm
from trimtab.numerics.welford import batch_stats as batch_stats

__all__ = [
    # Which losses and divergences lose nothing?
    "cross_entropy",
    "bce_with_logits",
    "sigmoid_focal_loss",
    "kl_from_logits",
    "js_divergence",
    "entropy_from_logits",
    "bernoulli_entropy",
    # How do I normalize logits, and draw from them?
    "softmax",
    "log_softmax",
    "logsumexp",
    "logmeanexp",
    "signed_logsumexp",
    "SignedLog",
    "logcumsumexp",
    "gumbel_softmax",
    "gumbel_noise",
    # What if a row is masked, or empty?
    "masked_softmax",
    "masked_log_softmax",
    "masked_logsumexp",
    "masked_mean",
    "masked_var",
    "masked_std",
    "masked_normalize",
    "masked_standardize",
    # What if an argument is outside of the domain?
    "safe_sqrt",
    "safe_rsqrt",
    "safe_log",
    "safe_div",
    "safe_pow",
    "safe_acos",
    "safe_asin",
    "xlogy",
    "xlog1py",
    # How long is a vector, and where does it point?
    "safe_norm",
    "normalize",
    "cosine_similarity",
    "pairwise_distance",
    "cdist",
    "standardize",
    "safe_std",
    # Which functions have exact gradients?
    "sigmoid",
    "tanh",
    "softplus",
    "softplus_inverse",
    "silu",
    "gelu",
    "mish",
    "log_cosh",
    "expm1",
    "expm1_minus_x",
    "log1p_minus_x",
    "sqrt1pm1",
    "log1mexp",
    "logsubexp",
    "logaddexp",
    "logit",
    "ndtr",
    "log_ndtr",
    "asin",
    "acos",
    "atan2",
    "hypot",
    "asinh",
    "acosh",
    "atanh",
    "digamma",
    "trigamma",
    # How do I add up without losing digits?
    "sum_compensated",
    "sum_pairwise",
    "cumsum_compensated",
    "dot2",
    "Moments",
    "batch_norm",
    "batch_stats",
    # How do I accumulate in half precision?
    "add_",
    "ema_",
    "RunningSum",
    "stochastic_round",
    "index_add",
    "index_put",
    "segment_sum",
    "embedding",
    "take_rows",
    # How many digits does a matrix cost?
    "condition_number",
    "estimate_condition",
    "condition_lower_bound",
    "check_conditioning",
    "LayerConditioning",
    "Method",
    # How do I factor and solve?
    "cholesky_psd",
    "PsdFactor",
    "solve_psd",
    "logdet_psd",
    "inv_quad_logdet",
    "sample_gaussian",
    "qr",
    "least_squares",
    "LeastSquares",
    "det",
    "polar",
    "safe_eigh",
    "safe_svd",
    "sqrtm_psd",
    "inv_sqrtm_psd",
    "logm_psd",
    "powm_psd",
    # How do I solve what is too large to factor?
    "conjugate_gradient",
    "CgResult",
    "CgStatus",
    "jacobi",
    "incomplete_cholesky",
    "algebraic_multigrid",
    "GeometricMultigrid",
    "GridOperator",
    "as_scipy",
    # Which sparse layout?
    "to_coo",
    "to_csr",
    "to_scipy",
    "csr_tensor",
    "size_bytes",
    "time_layouts",
    "LayoutTiming",
    "poisson_matrix",
    # How do I keep a network smooth?
    "SpectralPenalty",
    "activation_penalty",
    "gradient_penalty",
    # How do I prune and quantize?
    "magnitude_mask",
    "magnitude_pruning",
    "prune_globally",
    "prune_layers",
    "quantize",
    "fake_quantize",
    "Quantized",
    "QuantScheme",
    "cast_report",
    "CastReport",
    # What does a floating-point type hold, and a quadratic give?
    "machine_epsilon",
    "float_format",
    "FloatFormat",
    "FLOAT_FORMATS",
    "stable_quadratic",
    "quadratic_roots",
]
