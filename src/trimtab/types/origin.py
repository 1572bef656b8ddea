"""Where the first bad value of a step was born, and why."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

_LABEL_WIDTH = 10
_LINKS_SHOWN = 6


def operation_of_node(name: str) -> str:
    """What a node of the backward pass is the derivative of: `linalg_eigh` for `LinalgEighBackward0`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.split("Backward")[0]).lower()


class Phase(str, Enum):
    """The part of a step in which the first bad value was born.

    Members are strings: `origin.phase == "backward"` holds.
    """

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    INPUT = "input"
    PARAMETER = "parameter"

    def __str__(self) -> str:
        return str(self.value)


class Cause(str, Enum):
    """Why a value became NaN or Inf. Members are strings: `origin.cause == "log_zero"` holds.

    Attributes:
        explanation: What happened, in one sentence.
        fixes: The usual changes, the first one first.

    Example:
        >>> Cause.LOG_ZERO.explanation
        'log of an exact zero: an underflowed or saturated probability, silence, a missing value'
        >>> Cause("div_zero") is Cause.DIV_ZERO
        True
    """

    explanation: str
    fixes: tuple[str, ...]

    def __new__(cls, value: str, explanation: str, *fixes: str) -> Cause:
        """Make a member that is its own name."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        member.fixes = fixes
        return member

    LOG_ZERO = (
        "log_zero",
        "log of an exact zero: an underflowed or saturated probability, silence, a missing value",
        "compute the logarithm directly: log_softmax, logsigmoid, a loss on logits",
        "clamp the argument to the smallest normal number, or use trimtab.numerics.safe_log",
    )
    DIV_ZERO = (
        "div_zero",
        "division by zero, or zero to a negative power",
        "clamp the denominator from below, or add an epsilon to it",
        "use trimtab.numerics.safe_div, which gives a chosen value and gradient 0 there",
    )
    DOMAIN_ERROR = (
        "domain_error",
        "an argument outside the domain of the function, as the root or logarithm of a negative number",
        "make the argument positive by construction (softplus, square) or clamp it into the domain",
    )
    DOMAIN_EDGE = (
        "domain_edge",
        "value or derivative is infinite at the edge of the domain, as for acos(1) or atanh(1)",
        "clamp the argument to a little inside the domain",
        "for acos and asin, use trimtab.numerics.safe_acos or safe_asin",
    )
    SINGULAR_GRADIENT = (
        "singular_gradient",
        "the value is fine, its derivative is infinite: a root, norm, std or fractional power at 0",
        "add an epsilon inside the root, not outside of it",
        "use trimtab.numerics.safe_sqrt, safe_norm or safe_pow, whose gradient at 0 is 0",
    )
    WHERE_GRAD_TRAP = (
        "where_grad_trap",
        "a non-finite value is masked out in the forward pass and comes back as 0 * inf in the backward pass",
        "make the argument safe before the operation, not its result after it: mask twice",
    )
    EXP_OVERFLOW = (
        "exp_overflow",
        "exp of something too large",
        "clamp the argument, or subtract the maximum first",
        "stay in the logarithm: logsumexp, softplus, log_softmax",
    )
    HALF_OVERFLOW = (
        "half_overflow",
        "a value leaves the range of float16, whose largest number is 65504",
        "do this operation in float32, or in bfloat16",
        "scale the values down first",
    )
    HALF_UNDERFLOW = (
        "half_underflow",
        "an epsilon, a decay or a probability is rounded away in float16 or bfloat16",
        "use an epsilon that the type can hold (1e-4 in float16)",
        "keep master weights and statistics in float32",
    )
    FULLY_MASKED_SOFTMAX = (
        "fully_masked_softmax",
        "softmax over a row in which everything is masked",
        "leave at least one score of every row finite",
        "use trimtab.numerics.masked_softmax, which gives 0 for an empty row",
    )
    EMPTY_REDUCTION = (
        "empty_reduction",
        "a mean or std over no element, or a std over one",
        "sum, and divide by the number of elements clamped to at least 1",
        "skip the term when there is nothing to reduce",
    )
    INF_ARITHMETIC = (
        "inf_arithmetic",
        "arithmetic on infinities that were meant: 0 * -inf, -inf - -inf, a mask value that escapes",
        "mask with a large finite number instead of an infinity",
        "replace the infinities before they meet ordinary arithmetic",
    )
    DEGENERATE_LINALG = (
        "degenerate_linalg",
        "the derivative of eigh or svd is infinite for repeated eigenvalues or singular values",
        "break the tie with a small distinct diagonal, or use trimtab.numerics.safe_eigh",
        "take the gradient of a function of the spectrum (logdet, trace) in closed form",
    )
    DIVERGENCE = (
        "divergence",
        "the optimization itself diverges: values grow until they leave the range of the type",
        "lower the learning rate or warm it up; clip the gradient norm",
        "normalize activations or targets",
    )
    UNINITIALIZED_MEMORY = (
        "uninitialized_memory",
        "memory of torch.empty that was never filled",
        "use torch.zeros, or fill every element before it is read",
    )
    BAD_INPUT = (
        "bad_input",
        "the batch was already non-finite",
        "reject or repair such samples in the data loader",
    )
    BAD_PARAMETER = (
        "bad_parameter",
        "a parameter or buffer was already non-finite before the step",
        "go back to the last good checkpoint, and guard the step that broke it",
    )
    INFEASIBLE_TARGET = (
        "infeasible_target",
        "a loss that has no finite value for this target, as CTC with too short an input",
        "drop such samples, or pass zero_infinity=True",
    )

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Origin:
    """The first value of a step that was not finite and not meant to be.

    Attributes:
        phase: Where in the step it was born; `INPUT` and `PARAMETER` when the step found it there.
        op: The operation, as `aten.log`, or the node of the backward pass, as `SqrtBackward0`; "input"
            and "parameter" when no operation made it.
        module: Dotted path of the innermost module, "" for the model itself, None outside of the model.
        file: File of the line; None when no line of the user's ran it, as inside an optimizer.
        line: Number of the line, counted from 1. In the backward pass the forward line that made the node.
        code: Text of the line.
        cause: One of the vocabulary.
        why: One sentence with facts about the operands.
        advice: What to change.
        parameter: Name of the parameter or buffer concerned: the bad one, else the one whose gradient went
            bad first. None when a bad loss poisons them all alike.
        chain: How the value travelled, from birth to where it was seen.
        seen: Where it was seen first, as "the loss became NaN".
        poisoned: Names of all parameters with a bad gradient, the first poisoned first.
        input: Name of the tensor of the batch that was bad.
        module_type: Class of the module.
    """

    phase: Phase
    op: str
    module: str | None
    file: str | None
    line: int | None
    code: str
    cause: Cause
    why: str
    advice: str
    parameter: str | None = None
    chain: tuple[str, ...] = ()
    seen: str = ""
    poisoned: tuple[str, ...] = ()
    input: str | None = None
    module_type: str | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What two origins share if they are the same place in the code, gone wrong in the same way."""
        return self.phase, self.op, self.module, self.file, self.line, self.cause

    @property
    def route(self) -> str:
        """How the value travelled, shortened: first links, last one, how many parameters it poisoned."""
        links = list(self.chain)
        if len(links) > _LINKS_SHOWN:
            links = [*links[: _LINKS_SHOWN - 2], "...", links[-1]]
        more = f" (+ {len(self.poisoned) - 1} more)" if len(self.poisoned) > 1 else ""
        return " -> ".join(links) + more if links else ""

    def describe(self) -> str:
        """The origin in a few aligned lines, for a terminal."""
        rows = [("born in", self._birth()), ("module", self._module()), ("because", self.why)]
        rows += [("travelled", self.route), ("fix", self.advice)]
        lines = [f" {self.seen or 'a value became non-finite'}"]
        for label, text in rows:
            first, *rest = text.splitlines() or [""]
            if first:
                lines.append(f" {label:<{_LABEL_WIDTH}}{first}")
                lines += [" " * (_LABEL_WIDTH + 1) + line for line in rest]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()

    def to_json(self) -> str:
        """This origin as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """The origin that `to_json` wrote.

        Raises:
            ValueError: It is not the JSON of an origin.
        """
        loaded: dict[str, Any] = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(loaded, dict) or not set(loaded) <= known or "cause" not in loaded:
            raise ValueError(
                "this JSON is not an origin: expected an object with the fields of trimtab.Origin."
            )
        causes = {cause.value: cause for cause in Cause}
        loaded["phase"], loaded["cause"] = Phase(loaded["phase"]), causes[loaded["cause"]]
        for name in ("chain", "poisoned"):
            loaded[name] = tuple(loaded.get(name, ()))
        return cls(**loaded)

    def _birth(self) -> str:
        what = self.op.removeprefix("aten.")
        if self.phase is Phase.BACKWARD and "Backward" in what:
            what = f"backward of {operation_of_node(what)}"
        elif self.phase is not Phase.FORWARD and what != self.phase:
            what = f"{what} ({self.phase})"
        place = f"{self.file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{self.line}" if self.file else ""
        return "   ".join(part for part in (what, place, self.code) if part)

    def _module(self) -> str:
        if self.module is None:
            return ""
        kind = f" ({self.module_type})" if self.module_type else ""
        return (self.module or "the model itself") + kind
