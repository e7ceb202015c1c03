"""Is this answer right? One file each."""
