"""Evaluation: what was achieved, as numbers, tables, figures and a report."""
