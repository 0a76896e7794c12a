"""For authors of a driver: :func:`~dboxfs.fsapi.testing.conformance.check_driver` tests it against the
contract."""
