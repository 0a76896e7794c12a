"""Small things that several layers share and that know nothing of files or mail."""
