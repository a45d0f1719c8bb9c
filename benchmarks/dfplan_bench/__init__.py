"""The reproductions: a module per claim, run by ``dfplan bench NAME``."""

from __future__ import annotations
