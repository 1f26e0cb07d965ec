"""Study: what `--proof` runs, to set the method beside simpler means and beside itself in parts."""
