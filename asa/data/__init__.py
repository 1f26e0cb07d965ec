"""Data: labelled requests, where they come from, and how they are split."""
