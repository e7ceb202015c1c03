"""What models are measured on, one file each; `distill/evaluate/task.py` says what a file owes."""
