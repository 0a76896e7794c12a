"""The names that programs gave to messages: their files, and the tables that a mount looks them up in."""
