"""How many samples to ask for, and when to stop; one policy a file."""
