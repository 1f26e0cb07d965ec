"""Models: which there are, how they are loaded, and how they are asked."""
