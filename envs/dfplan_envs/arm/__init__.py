"""Tasks of a robot arm: a Panda at a table in PyBullet (extra: bullet).

`fruit-swap-v0` needs memory; `arm-reach-v0` and `arm-pick-place-v0` are small ones on the same base. The simulator is
imported when an environment is made.
"""
