"""Scaling studies: sizes x methods x seeds as a resumable set of runs, and the curves that follow."""
