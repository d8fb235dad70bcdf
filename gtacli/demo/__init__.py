"""`gta demo`: its runs, what they came to, its picture."""
