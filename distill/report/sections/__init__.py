"""The chapters of a report: one file each, one function `section(data)`, None where the run has nothing for it."""
