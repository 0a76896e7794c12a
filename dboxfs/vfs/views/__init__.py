"""Other ways to show a store: a view maps names to (mailbox, message, flags), and nothing else."""
