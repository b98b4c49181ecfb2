"""Mayfly runs functions on short-lived containers: one task, one short life."""

from mayfly.advice import Permanent, Retry

__all__ = ["Permanent", "Retry"]
__version__ = "0.1.0"
