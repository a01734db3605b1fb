"""Spillway: an edge-plus-cloud inference runtime.

The daemon lives here. It never imports torch and never imports `compress`.
"""

__version__ = "0.1.0"
