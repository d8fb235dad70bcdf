"""Functions that draw attention maps, object masks and tables of numbers as pictures."""
