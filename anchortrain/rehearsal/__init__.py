"""Rehearsal: rounds of drawing plans, writing responses, keeping what checkers confirm, and training on it."""
