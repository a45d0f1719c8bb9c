"""Run a policy on an arm: chunks of actions, a safety filter, a fixed-rate loop and thin back ends.

Nothing in this package but a back end's own file imports ROS, DDS or a simulator.
"""

from __future__ import annotations
