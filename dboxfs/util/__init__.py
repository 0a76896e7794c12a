"""Small helpers that several layers share, and that know nothing of stores or mail."""
