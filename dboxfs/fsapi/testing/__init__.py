"""For who writes a driver: :func:`~dboxfs.fsapi.testing.conformance.check_driver` holds it to the
contract."""
