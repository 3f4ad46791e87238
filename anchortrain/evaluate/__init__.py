"""Measures of diversity and quality of samples, and the report of a comparison."""
