"""The report: what it says of a run, on a terminal, in a file and in a picture."""
