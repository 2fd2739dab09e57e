"""A plan as one page, with pictures and tables."""
