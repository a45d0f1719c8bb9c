"""Reference policies: the dataset's controller, random actions, recorded actions, stable-baselines3 algorithms."""
