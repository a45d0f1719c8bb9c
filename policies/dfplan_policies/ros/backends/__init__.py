"""The ways to a robot, one file each; `dfplan_policies.ros.wire.Backend` says what each one does."""
