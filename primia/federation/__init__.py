"""The federation on Ray: sites, driver, rounds, run folder."""
