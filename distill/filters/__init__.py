"""One reason for rejection a file."""
