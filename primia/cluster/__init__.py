"""Ray clusters: starting a local one, attaching to a running one."""
