"""A file system over mail: names, attributes, files being written, and when they become messages."""
