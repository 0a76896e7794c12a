"""Many users' stores in one mount: ``dboxfs mount --users`` (``site.py`` answers the requests)."""
