"""Attacks on a finished run by its own data owners, and the page that shows them."""
