"""Groups: which rows, columns, channels and heads of a network live or die together, found by running it once."""
