"""Gaps of sums, accumulation in half precision, statistics and linear algebra."""

from __future__ import annotations

from numerics.gaps import Gap

_ONES = "index = torch.zeros(4096, dtype=torch.long); ones = torch.ones(4096, dtype=torch.{})"
_WEIGHT = (
    "index = torch.zeros(4096, dtype=torch.long); w = torch.zeros(2, 1, dtype=torch.{}, requires_grad=True)"
)
_LOOP = """
def repeated(times, first, step):
    for _ in range(times):
        step(first)
    return first
"""

LINEAR_GAPS: list[Gap] = [
    *(
        Gap(
            group="Accumulation in half precision",
            title=f"index_add: 4096 ones stop at {limit} in {dtype}",
            inputs=f"{_ONES.format(dtype)}; x = torch.zeros(1, dtype=ones.dtype)",
            torch="torch.index_add(x, 0, index, ones)",
            ours="numerics.index_add(x, 0, index, ones)",
            exact="[4096]",
        )
        for dtype, limit in (("bfloat16", 256), ("float16", 2048))
    ),
    *(
        Gap(
            group="Accumulation in half precision",
            title=f"index_put: 4096 ones stop at {limit} in {dtype}",
            inputs=f"{_ONES.format(dtype)}; x = torch.zeros(1, dtype=ones.dtype)",
            torch="torch.index_put(x, (index,), ones, accumulate=True)",
            ours="numerics.index_put(x, (index,), ones, accumulate=True)",
            exact="[4096]",
        )
        for dtype, limit in (("bfloat16", 256), ("float16", 2048))
    ),
    Gap(
        group="Accumulation in half precision",
        title="segment_reduce: the sum of 4096 ones stops at 256 in bfloat16",
        inputs="ones = torch.ones(4096, dtype=torch.bfloat16); lengths = torch.tensor([4096])",
        torch="torch.segment_reduce(ones, 'sum', lengths=lengths)",
        ours="numerics.segment_sum(ones, lengths)",
        exact="[4096]",
    ),
    *(
        Gap(
            group="Accumulation in half precision",
            title=f"embedding: the gradient of a row seen 4096 times stops at {limit} in {dtype}",
            inputs=_WEIGHT.format(dtype),
            torch="F.embedding(index, w)",
            ours="numerics.embedding(index, w)",
            gradient_of="w",
            exact="[4096, 0]",
        )
        for dtype, limit in (("bfloat16", 256), ("float16", 2048))
    ),
    Gap(
        group="Accumulation in half precision",
        title="indexing: the gradient of a row taken 4096 times stops at 256 in bfloat16",
        inputs=_WEIGHT.format("bfloat16"),
        torch="w[index]",
        ours="numerics.take_rows(w, index)",
        gradient_of="w",
        exact="[4096, 0]",
    ),
    Gap(
        group="Accumulation in half precision",
        title="a weight of 1 does not move under 1000 steps of 1e-3 in bfloat16",
        inputs=f"{_LOOP}\nx = torch.ones(1, dtype=torch.bfloat16); lost = torch.zeros_like(x)",
        torch="repeated(1000, x, lambda x: x.add_(1e-3))",
        ours="repeated(1000, x, lambda x: numerics.add_(x, torch.tensor([1e-3]), compensation=lost))",
        exact="[2]",
        rtol=1e-3,
    ),
    Gap(
        group="Accumulation in half precision",
        title="a moving average with decay 0.999 stops half way in bfloat16",
        inputs=f"{_LOOP}\nx = torch.zeros(1, dtype=torch.bfloat16); lost = torch.zeros_like(x)\n"
        "one = torch.ones(1)",
        torch="repeated(2000, x, lambda x: x.mul_(0.999).add_(one, alpha=0.001))",
        ours="repeated(2000, x, lambda x: numerics.ema_(x, one, 0.999, compensation=lost))",
        exact="[1 - mpf('0.999') ** 2000]",
        rtol=2**-8,
    ),
    Gap(
        group="Accumulation in half precision",
        title="rounding to bfloat16 loses what is below half a unit, every time",
        inputs="x = torch.full((100000,), 1 + 2.0**-9)",
        torch="x.to(torch.bfloat16).double().mean()",
        ours="numerics.stochastic_round(x, torch.bfloat16).double().mean()",
        exact="[1 + mpf(2) ** -9]",
        rtol=1e-4,
        torch_rtol=1e-3,
    ),
    Gap(
        group="Sums and statistics",
        title="sum of 1e8, a thousand ones and -1e8 in float32",
        inputs="x = torch.cat([torch.tensor([1e8]), torch.ones(1000), torch.tensor([-1e8])])",
        torch="x.sum()",
        ours="numerics.sum_compensated(x)",
        exact="[1000]",
    ),
    Gap(
        group="Sums and statistics",
        title="sum of 1e16, 1 and -1e16 in float64",
        inputs="x = torch.tensor([1e16, 1.0, -1e16], dtype=torch.float64)",
        torch="x.sum()",
        ours="numerics.sum_compensated(x)",
        exact="[1]",
    ),
    Gap(
        group="Sums and statistics",
        title="dot product of 1e6, 1, -1e6 and 1e6, 3, 1e6 in float32",
        inputs="x = torch.tensor([1e6, 1.0, -1e6]); y = torch.tensor([1e6, 3.0, 1e6])",
        torch="torch.dot(x, y)",
        ours="numerics.dot2(x, y)",
        exact="[3]",
    ),
    Gap(
        group="Sums and statistics",
        title="batch_norm of 65536 rows with mean 1e4 on the CPU: the output is off by deviations",
        inputs="x = torch.tensor([9999.0, 10001.0]).repeat(32768)[:, None].expand(-1, 2).contiguous()",
        torch="F.batch_norm(x, None, None, training=True)[:2, 0]",
        ours="numerics.batch_norm(x, None, None, training=True)[:2, 0]",
        exact="[-1 / sqrt(1 + mpf('1e-5')), 1 / sqrt(1 + mpf('1e-5'))]",
        rtol=1e-3,
    ),
    Gap(
        group="Linear algebra",
        title="det: the gradient at a singular matrix is all zeros",
        inputs="A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64, requires_grad=True)",
        torch="torch.linalg.det(A)",
        ours="numerics.det(A)",
        gradient_of="A",
        exact="[4, -2, -2, 1]",
        rtol=1e-14,
    ),
    Gap(
        group="Linear algebra",
        title="det of 1e-3 times the identity of size 200 is 0, and its logarithm -inf",
        inputs="A = 1e-3 * torch.eye(200)",
        torch="torch.linalg.det(A).log()",
        ours="numerics.logdet_psd(A)",
        exact="[200 * log(mpf('1e-3'))]",
    ),
    Gap(
        group="Linear algebra",
        title="square root through eigh: the gradient at the identity is NaN",
        inputs="A = torch.eye(2, requires_grad=True)",
        torch="(lambda values, vectors: (vectors * values.sqrt()) @ vectors.mT)(*torch.linalg.eigh(A))",
        ours="numerics.sqrtm_psd(A)",
        gradient_of="A",
        exact="[0.5, 0.5, 0.5, 0.5]",
    ),
    Gap(
        group="Linear algebra",
        title="square root through eigh: the gradient at eigenvalues 1 and 1 + 1e-5 loses 2 digits and more",
        inputs="t = torch.tensor(0.3, requires_grad=True); c, s = t.cos().detach(), t.sin().detach();"
        " Q = torch.stack([torch.stack([c, -s]), torch.stack([s, c])]);"
        " A = (Q @ torch.diag(torch.tensor([1.0, 1.0 + 2.0**-20])) @ Q.T);"
        " A = ((A + A.T) / 2).requires_grad_()",
        torch="(lambda values, vectors: (vectors * values.sqrt()) @ vectors.mT)(*torch.linalg.eigh(A))",
        ours="numerics.sqrtm_psd(A)",
        gradient_of="A",
        exact="[0.5, 0.5, 0.5, 0.5]",
        torch_rtol=1e-3,
    ),
    Gap(
        group="Linear algebra",
        title="orthogonal factor through svd: the gradient at the identity is NaN",
        inputs="A = torch.eye(2, requires_grad=True)",
        torch="(lambda u, s, vh: (u @ vh)[0, 1])(*torch.linalg.svd(A))",
        ours="numerics.polar(A)[0][0, 1]",
        gradient_of="A",
        exact="[0, 0.5, -0.5, 0]",
    ),
    Gap(
        group="Linear algebra",
        title="cond: the gradient of its neighbor in a batch is NaN where one matrix is singular",
        inputs="A = torch.diag(torch.tensor([2.0, 1.0])).requires_grad_(); Z = torch.zeros(2, 2)",
        torch="torch.linalg.cond(torch.stack([A, A * Z]))[0]",
        ours="numerics.condition_number(torch.stack([A, A * Z]))[0]",
        gradient_of="A",
        exact="[1, 0, 0, -2]",
    ),
]
