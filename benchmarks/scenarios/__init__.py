"""One module for each group of figures; each `measure` runs one scenario and gives its figures."""
