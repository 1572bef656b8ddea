"""Stable math and linear algebra: what torch computes with fewer digits than it could."""

from trimtab.numerics.accumulate import RunningSum as RunningSum
from trimtab.numerics.accumulate import add_ as add_
from trimtab.numerics.accumulate import ema_ as ema_
from trimtab.numerics.accumulate import embedding as embedding
from trimtab.numerics.accumulate import index_add as index_add
from trimtab.numerics.accumulate import index_put as index_put
from trimtab.numerics.accumulate import segment_sum as segment_sum
from trimtab.numerics.accumulate import stochastic_round as stochastic_round
from trimtab.numerics.accumulate import take_rows as take_rows
from trimtab.numerics.conditioning import LayerConditioning as LayerConditioning
from trimtab.numerics.conditioning import Method as Method
from trimtab.numerics.conditioning import check_conditioning as check_conditioning
from trimtab.numerics.conditioning import condition_lower_bound as condition_lower_bound
from trimtab.numerics.conditioning import condition_number as condition_number
from trimtab.numerics.conditioning import estimate_condition as estimate_condition
from trimtab.numerics.decompositions import det as det
from trimtab.numerics.decompositions import polar as polar
from trimtab.numerics.decompositions import safe_eigh as safe_eigh
from trimtab.numerics.decompositions import safe_svd as safe_svd
from trimtab.numerics.floating import FLOAT_FORMATS as FLOAT_FORMATS
from trimtab.numerics.floating import FloatFormat as FloatFormat
from trimtab.numerics.floating import float_format as float_format
from trimtab.numerics.floating import machine_epsilon as machine_epsilon
from trimtab.numerics.iterative import CgResult as CgResult
from trimtab.numerics.iterative import CgStatus as CgStatus
from trimtab.numerics.iterative import conjugate_gradient as conjugate_gradient
from trimtab.numerics.least_squares import LeastSquares as LeastSquares
from trimtab.numerics.least_squares import least_squares as least_squares
from trimtab.numerics.least_squares import qr as qr
from trimtab.numerics.matrix_functions import inv_sqrtm_psd as inv_sqrtm_psd
from trimtab.numerics.matrix_functions import logm_psd as logm_psd
from trimtab.numerics.matrix_functions import powm_psd as powm_psd
from trimtab.numerics.matrix_functions import sqrtm_psd as sqrtm_psd
from trimtab.numerics.multigrid import GeometricMultigrid as GeometricMultigrid
from trimtab.numerics.multigrid import GridOperator as GridOperator
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
from trimtab.numerics.sparse import LayoutTiming as LayoutTiming
from trimtab.numerics.sparse import csr_tensor as csr_tensor
from trimtab.numerics.sparse import poisson_matrix as poisson_matrix
from trimtab.numerics.sparse import size_bytes as size_bytes
from trimtab.numerics.sparse import time_layouts as time_layouts
from trimtab.numerics.sparse import to_coo as to_coo
from trimtab.numerics.sparse import to_csr as to_csr
from trimtab.numerics.sparse import to_scipy as to_scipy
from trimtab.numerics.sums import cumsum_compensated as cumsum_compensated
from trimtab.numerics.sums import dot2 as dot2
from trimtab.numerics.sums import sum_compensated as sum_compensated
from trimtab.numerics.sums import sum_pairwise as sum_pairwise
from trimtab.numerics.welford import Moments as Moments
from trimtab.numerics.welford import batch_norm as batch_norm
from trimtab.numerics.welford import batch_stats as batch_stats

__all__ = [
    "RunningSum",
    "add_",
    "ema_",
    "embedding",
    "index_add",
    "index_put",
    "segment_sum",
    "stochastic_round",
    "take_rows",
    "LayerConditioning",
    "Method",
    "check_conditioning",
    "condition_lower_bound",
    "condition_number",
    "estimate_condition",
    "det",
    "polar",
    "safe_eigh",
    "safe_svd",
    "FLOAT_FORMATS",
    "FloatFormat",
    "float_format",
    "machine_epsilon",
    "CgResult",
    "CgStatus",
    "conjugate_gradient",
    "LeastSquares",
    "least_squares",
    "qr",
    "inv_sqrtm_psd",
    "logm_psd",
    "powm_psd",
    "sqrtm_psd",
    "Moments",
    "batch_norm",
    "batch_stats",
    "GeometricMultigrid",
    "GridOperator",
    "SpectralPenalty",
    "activation_penalty",
    "gradient_penalty",
    "algebraic_multigrid",
    "as_scipy",
    "incomplete_cholesky",
    "jacobi",
    "magnitude_mask",
    "magnitude_pruning",
    "prune_globally",
    "prune_layers",
    "PsdFactor",
    "cholesky_psd",
    "inv_quad_logdet",
    "logdet_psd",
    "sample_gaussian",
    "solve_psd",
    "quadratic_roots",
    "stable_quadratic",
    "CastReport",
    "Quantized",
    "QuantScheme",
    "cast_report",
    "fake_quantize",
    "quantize",
    "LayoutTiming",
    "csr_tensor",
    "poisson_matrix",
    "size_bytes",
    "time_layouts",
    "to_coo",
    "to_csr",
    "to_scipy",
    "cumsum_compensated",
    "dot2",
    "sum_compensated",
    "sum_pairwise",
]
