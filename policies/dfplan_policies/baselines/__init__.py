"""Reference policies: the dataset's controller, sampling MPC, actors from files, random and recorded actions."""
