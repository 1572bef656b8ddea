"""A guard's loss scale: which bad gradients it excuses, and how it follows the steps."""

from __future__ import annotations


class LossScale:
    """To come."""
