"""Where tokens come from, one file each."""
