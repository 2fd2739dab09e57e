"""The exact search behind one seam: the standard form, CP-SAT and HiGHS."""
