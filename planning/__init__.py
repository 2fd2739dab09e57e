"""From a profile and constraints to a program and a plan: where the solver and sensitivity meet."""
