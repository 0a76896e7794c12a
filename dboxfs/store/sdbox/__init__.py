"""single-dbox: each message is one file ``u.<uid>`` (dbox-files section 5)."""
