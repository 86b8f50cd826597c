"""The loggers: what each is sent, and which are found."""
