"""What the guard costs: ratios to stock, taken side by side."""
