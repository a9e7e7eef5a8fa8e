"""Settings: typed sections, the ``.ini`` reader, the reference page."""
