"""Where operations are carried out: one module a driver, ``base`` the contract that all of them keep.

``threads`` is the default; ``uring`` is an alternative that nothing else knows; ``memory`` and ``faults`` are
for tests; ``choice`` picks one by name.
"""
