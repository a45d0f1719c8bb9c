"""`check_policy`: whether an object is a policy as everything here takes it."""

from __future__ import annotations

from dfplan_policies.checking.case import PolicyCheckError
from dfplan_policies.checking.check import RULES, check_policy

__all__ = ["RULES", "PolicyCheckError", "check_policy"]
