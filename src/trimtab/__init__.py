"""trimtab: numerically safe PyTorch training."""

from trimtab._version import __version__ as __version__
