"""The drivers, which run the operations: one module a driver, and ``base`` with the contract of all of them.

``threads`` is the default; ``uring`` is an alternative that nothing else knows; ``memory`` and ``faults`` are
for tests; ``choice`` picks one by name.
"""
