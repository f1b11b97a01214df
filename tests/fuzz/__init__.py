"""Long comparisons; `make fuzz` runs them."""
