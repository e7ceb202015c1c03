"""One command of `distill` a file: its options, and the call of what does the work. Imported when it is run."""
