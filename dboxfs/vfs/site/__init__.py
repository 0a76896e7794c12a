"""The stores of many users in one mount: ``dboxfs mount --users`` (``site.py`` answers the requests)."""
