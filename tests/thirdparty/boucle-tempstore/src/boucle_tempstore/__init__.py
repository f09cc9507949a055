"""A plugin for Boucle, as somebody else would write it: it uses `boucle.core`, `boucle.ports` and `boucle.testing`."""
