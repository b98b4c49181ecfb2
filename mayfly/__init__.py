"""Mayfly runs functions on short-lived containers: one task, one short life."""

__version__ = "0.1.0"
