"""A federation: the driver, the sites, and in this package what they say to each other."""
