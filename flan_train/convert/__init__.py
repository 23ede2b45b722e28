"""Exchange of parameters with other programs; each module knows one format, both ways."""
