"""Where torch itself is wrong, as data: the tests pin each gap, and docs/numerics.md shows the same table.

A gap is code in strings, run as it stands, so that page and test cannot differ. `exact` is evaluated by
mpmath with 50 digits. A test fails when torch has become right: then the gap is to be retired, and with
it whatever was only built to close it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import mpmath
import torch
import torch.nn.functional as F

from trimtab import numerics

_CODE_NAMES = {"torch": torch, "F": F, "numerics": numerics, "math": math, "inf": math.inf, "nan": math.nan}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One input at which torch gives something else than an exact answer that exists.

    Attributes:
        group: Heading of the page under which it stands.
        title: What goes wrong, in a reader's words.
        inputs: Statements that make the inputs.
        torch: Expression in torch alone.
        ours: The same through `numerics`.
        gradient_of: Names of inputs, with commas, whose gradient of the summed result is looked at;
            None looks at the result.
        exact: Expression (a number or a list) in mpmath's names.
        rtol: Relative error allowed to ours.
        torch_rtol: torch is wrong when its relative error exceeds this.
        issue: Upstream thread, as "pytorch#49724".
    """

    group: str
    title: str
    inputs: str
    torch: str
    ours: str
    exact: str
    gradient_of: str | None = None
    rtol: float = 1e-6
    torch_rtol: float = 1e-2
    issue: str = ""

    def exact_values(self) -> list[float]:
        """What a correct answer is, rounded once."""
        names = {name: getattr(mpmath, name) for name in dir(mpmath) if not name.startswith("_")}
        with mpmath.workdps(50):
            value = eval(self.exact, names)
            return [float(v) for v in (value if isinstance(value, list) else [value])]

    def torch_values(self) -> list[float]:
        """What torch answers; it warns in some of these places."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._run(self.torch)

    def our_values(self) -> list[float]:
        """What we answer."""
        return self._run(self.ours)

    def _run(self, expression: str) -> list[float]:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # what is wrong differs with the order of a sum
        try:
            return self._run_alone(expression)
        finally:
            torch.set_num_threads(num_threads)

    def _run_alone(self, expression: str) -> list[float]:
        torch.manual_seed(0)
        names = dict(_CODE_NAMES)
        exec(self.inputs, names)
        result = eval(expression, names)
        if self.gradient_of is not None:
            inputs = [names[name.strip()] for name in self.gradient_of.split(",")]
            grads = torch.autograd.grad(result.sum(), inputs)
            result = torch.cat([grad.flatten() for grad in grads])
        values: list[float] = torch.as_tensor(result).detach().double().flatten().tolist()
        return values


def relative_error(values: list[float], exact: list[float]) -> float:
    """Largest relative error; infinite where one is NaN or infinite and the other is not."""
    if len(values) != len(exact):
        raise ValueError(f"{len(values)} values against {len(exact)} exact ones")
    errors = [0.0]
    for value, wanted in zip(values, exact, strict=True):
        if value == wanted or (math.isnan(value) and math.isnan(wanted)):
            continue
        both_finite = math.isfinite(value) and math.isfinite(wanted)
        errors.append(abs(value - wanted) / abs(wanted) if both_finite and wanted else math.inf)
    return max(errors)


def all_gaps() -> list[Gap]:
    """Every gap, in the order of the page. A further list joins here."""
    from numerics.gaps_linear import LINEAR_GAPS
    from numerics.gaps_math import MATH_GAPS

    return [*MATH_GAPS, *LINEAR_GAPS]
