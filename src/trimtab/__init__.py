"""trimtab: numerically safe PyTorch training.

>>> import trimtab as tt
>>> guard = tt.Guard(model, optimizer, clip=tt.NormClip(1.0), record="runs/exp1")  # doctest: +SKIP
"""

from trimtab import act as act
from trimtab import measure as measure
from trimtab._version import __version__ as __version__
from trimtab.decide import NonFinite as NonFinite
from trimtab.decide import NormClip as NormClip
from trimtab.decide import Observe as Observe
from trimtab.decide import Overflow as Overflow
from trimtab.decide import Raise as Raise
from trimtab.decide import Skip as Skip
from trimtab.errors import NonFiniteError as NonFiniteError
from trimtab.guard import Guard as Guard
from trimtab.types import StepOutcome as StepOutcome
